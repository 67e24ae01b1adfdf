"""A model as a graph of nodes: runs under a set of kept edges, and sweeps over single ones."""

from .edges import Edge as Edge
from .edges import Graph as Graph
from .edges import kept_edges as kept_edges
from .nodes import Node as Node
from .nodes import Port as Port
from .nodes import ports as ports
from .nodes import senders as senders
from .run import GraphRun as GraphRun
from .run import graph_run as graph_run
from .sweep import sweep_edges as sweep_edges
