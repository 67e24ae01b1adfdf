"""Circuits of no method at all: as many parts as a circuit has, drawn by chance.

Heads and MLPs are drawn apart, since MLPs are few and matter more (Lan et al. 2024, arXiv 2311.04131, remove as many
random heads as a circuit has).
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from patchpoint.engine import Model
from patchpoint.engine.graph.edges import Graph
from patchpoint.engine.graph.nodes import EMBED, LOGITS, Node, senders

from .circuit import Circuit
from .kept import Kept

WALKS = 100
"""Random paths that are tried before the shortest one is taken."""


def random_circuit(circuit: Circuit, model: Model, draw: np.random.Generator) -> Kept:
    """Parts of the circuit's kind and number.

    Of nodes: as many heads and as many MLPs. Of edges: as many edges, all among as many random heads and MLPs as
    the circuit's edges touch (among more where those have too few edges), a path from the embedding to the logits
    with them.
    """
    nodes = senders(model)[1:]
    chosen = _like(circuit.nodes, nodes, draw)
    if circuit.edges is None:
        return tuple(str(node) for node in nodes if node in chosen)
    graph = Graph.of(model)
    rest = [node for node in nodes if node not in chosen]
    waiting = [rest[i] for i in draw.permutation(len(rest))]
    among = _among(graph, chosen)
    while among.sum() < len(circuit.edges):
        chosen.add(waiting.pop())
        among = _among(graph, chosen)
    return _edges_with_a_path(graph, among, len(circuit.edges), draw)


def _like(names: Sequence[str], nodes: Sequence[Node], draw: np.random.Generator) -> set[Node]:
    """Random nodes of the kinds of the named ones, each kind as often."""
    kinds = {str(node): node.kind for node in nodes}
    chosen: set[Node] = set()
    for kind in ("head", "mlp"):
        known = [node for node in nodes if node.kind == kind]
        number = sum(kinds[name] == kind for name in names)
        chosen |= {known[i] for i in draw.choice(len(known), number, replace=False)}
    return chosen


def _among(graph: Graph, nodes: set[Node]) -> Bool[np.ndarray, "sender port"]:
    """Every edge between some nodes, the embedding and the logits."""
    writes = np.array([node in nodes or node == EMBED for node in graph.senders])
    reads = np.array([port.node in nodes or port.node == LOGITS for port in graph.ports])
    table: Bool[np.ndarray, "sender port"] = graph.readable.numpy() & writes[:, None] & reads
    return table


def _edges_with_a_path(
    graph: Graph, among: Bool[np.ndarray, "sender port"], n: int, draw: np.random.Generator
) -> Bool[np.ndarray, "sender port"]:
    """n random edges of a table, those of a path from the embedding to the logits with them."""
    table = np.zeros_like(among)
    if n == 0:
        return table
    paths = (_walk(graph, among, draw) for _ in range(WALKS))
    for sender, port in next((path for path in paths if len(path) <= n), [(0, len(graph.ports) - 1)]):
        table[sender, port] = True
    others = np.flatnonzero(among & ~table)
    table.ravel()[draw.choice(others, n - int(table.sum()), replace=False)] = True
    return table


def _walk(
    graph: Graph, among: Bool[np.ndarray, "sender port"], draw: np.random.Generator
) -> list[tuple[int, int]]:
    """A random path from the logits down to the embedding, as numbers of senders and ports."""
    ports_of: dict[Node, list[int]] = {}
    for number, port in enumerate(graph.ports):
        ports_of.setdefault(port.node, []).append(number)
    path, node = [], LOGITS
    while node != EMBED:
        reads = int(draw.choice(ports_of[node]))
        sender = int(draw.choice(np.flatnonzero(among[:, reads])))
        path.append((sender, reads))
        node = graph.senders[sender]
    return path
