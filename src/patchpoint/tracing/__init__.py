"""Causal tracing: where a model keeps a fact."""

from .roles import ROLES as ROLES
from .roles import average_by_role as average_by_role
from .trace import Trace as Trace
from .trace import trace as trace
