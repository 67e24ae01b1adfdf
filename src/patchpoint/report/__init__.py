"""Pages and tables of experiments: HTML that needs no script, CSV and LaTeX."""

from .page import Drawn, Entry, Section, experiment_page, index_page
from .tables import Table, write_table

__all__ = ["Drawn", "Entry", "Section", "Table", "experiment_page", "index_page", "write_table"]
