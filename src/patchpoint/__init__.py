"""A workbench for causal experiments inside transformer language models."""

from . import tracing as tracing
from .engine import Edit as Edit
from .engine import Model as Model
from .engine import Run as Run
from .engine import Site as Site
from .engine import Variant as Variant
from .engine import load as load
from .engine import sweep as sweep
from .errors import PatchpointError as PatchpointError
from .tasks.prompts import Prompts as Prompts
from .tracing import Trace as Trace
from .tracing import trace as trace
