"""Causal tracing: where a model keeps a fact."""

from .corruption import Twin as Twin
from .grid import Grid as Grid
from .grid import grid_of as grid_of
from .result import Trace as Trace
from .roles import ROLES as ROLES
from .roles import average_by_role as average_by_role
from .trace import trace as trace
