"""Pictures of causal traces: matplotlib figures for papers, self-contained HTML pages for exploring."""

from .about import About as About
from .averages import role_averages_figure as role_averages_figure
from .beside import beside as beside
from .beside import rome_panels as rome_panels
from .beside import spread as spread
from .book import save_book as save_book
from .curves import curve as curve
from .heatmap import heatmap as heatmap
from .heatmap import panels as panels
from .html import facts_page as facts_page
from .html import trace_html as trace_html
from .labels import visible as visible
from .measures import measure_page as measure_page
from .picture import RolePicture as RolePicture
from .picture import TracePicture as TracePicture
from .role_lines import role_lines as role_lines
from .role_lines import role_summary as role_summary
from .roles import role_heatmap as role_heatmap
from .save import save as save
from .shares import share_heatmap as share_heatmap
