"""Pictures of causal traces: matplotlib figures for papers, self-contained HTML pages for exploring."""

from .heatmap import heatmap as heatmap
from .heatmap import panels as panels
from .html import facts_page as facts_page
from .html import trace_html as trace_html
from .labels import visible as visible
from .picture import RolePicture as RolePicture
from .picture import TracePicture as TracePicture
from .roles import role_heatmap as role_heatmap
from .save import save as save
