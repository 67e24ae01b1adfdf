"""A workbench for causal experiments inside transformer language models."""

from . import circuits as circuits
from . import tracing as tracing
from .circuits import ablate_nodes as ablate_nodes
from .circuits import patch_components as patch_components
from .circuits import patch_heads as patch_heads
from .engine import Edit as Edit
from .engine import Mean as Mean
from .engine import Model as Model
from .engine import Noise as Noise
from .engine import Run as Run
from .engine import Site as Site
from .engine import Taken as Taken
from .engine import Variant as Variant
from .engine import attribute_edges as attribute_edges
from .engine import attribute_nodes as attribute_nodes
from .engine import graph_run as graph_run
from .engine import load as load
from .engine import resampled as resampled
from .engine import sweep as sweep
from .engine import sweep_edges as sweep_edges
from .errors import PatchpointError as PatchpointError
from .tasks.catalogue import task as task
from .tasks.prompts import Prompts as Prompts
from .tracing import Trace as Trace
from .tracing import trace as trace
