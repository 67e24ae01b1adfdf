"""Nodes asked for by name or as a circuit."""

from collections.abc import Collection

from patchpoint.engine import Model
from patchpoint.engine.graph.nodes import Node

from .circuit import Circuit
from .evaluation import nodes_named


def members(model: Model, nodes: Collection[str] | Circuit) -> tuple[Node, ...]:
    """The nodes of these names, or of a circuit of this model, in the order of the model.

    Raises UnknownName, InvalidArgument for text in place of a list, ResultsError for a circuit of another model.
    """
    if isinstance(nodes, Circuit):
        nodes.check(model)
        nodes = nodes.nodes
    return nodes_named(model, nodes)
