"""Runs on disk: one Parquet part per fact while running, two tables and their provenance when finished."""

from .provenance import Counts as Counts
from .provenance import RunRecord as RunRecord
from .provenance import new_record as new_record
from .read import Answer as Answer
from .read import SavedRun as SavedRun
from .read import open_run as open_run
from .read import query as query
from .schema import grid_rows as grid_rows
from .store import Store as Store
