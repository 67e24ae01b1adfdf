"""Runs, edits and sweeps: what a model's output becomes if one thing inside it is changed."""

from .batch import Batch as Batch
from .cost import SweepPlan as SweepPlan
from .gradients.attribution import attribute_edges as attribute_edges
from .gradients.attribution import attribute_nodes as attribute_nodes
from .graph import Graph as Graph
from .graph import GraphRun as GraphRun
from .graph import graph_run as graph_run
from .graph import sweep_edges as sweep_edges
from .metrics import METRICS as METRICS
from .model import Model as Model
from .model import load as load
from .run import Run as Run
from .sites import COMPONENTS as COMPONENTS
from .sites import Edit as Edit
from .sites import Site as Site
from .sites import Variant as Variant
from .sources import Mean as Mean
from .sources import Noise as Noise
from .sources import Source as Source
from .sources import Taken as Taken
from .sources import resampled as resampled
from .sweep import sweep as sweep
