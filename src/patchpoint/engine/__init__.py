"""Runs, edits and sweeps: what a model's output becomes if one thing inside it is changed."""

from .batch import Batch as Batch
from .metrics import METRICS as METRICS
from .model import Model as Model
from .model import load as load
from .run import Run as Run
from .sites import COMPONENTS as COMPONENTS
from .sites import Edit as Edit
from .sites import Site as Site
from .sites import Variant as Variant
from .sweep import sweep as sweep
