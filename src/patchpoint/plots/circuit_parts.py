"""What a picture of circuits shows: their nodes and edges, merged by name, each with the circuits that have it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import TypeVar

import numpy as np

from patchpoint.circuits.circuit import Circuit
from patchpoint.circuits.names import Shape, model_order, part_kind, part_order, scores_of
from patchpoint.engine.graph.nodes import EMBED, LOGITS, Node
from patchpoint.errors import InvalidArgument

ENDS = {str(EMBED): EMBED, str(LOGITS): LOGITS}
MOST_CIRCUITS = len(ascii_uppercase)
Name = TypeVar("Name", str, tuple[str, str])


@dataclass(frozen=True)
class NodeMark:
    """A kept node: the circuits that keep it, by number, and the score that each gave it (NaN: none).

    `share`: the mean over them of the score over the largest kept one of its circuit, -1 to 1, NaN without scores.
    """

    name: str
    members: tuple[int, ...]
    scores: tuple[float, ...]
    share: float


@dataclass(frozen=True)
class EdgeMark:
    """A kept edge, its numbers as those of a node; `receiver` is a port, or a node where ports are merged."""

    sender: str
    receiver: str
    members: tuple[int, ...]
    scores: tuple[float, ...]
    share: float


@dataclass(frozen=True)
class Parts:
    """Nodes and edges of some circuits, in the order of the model."""

    labels: tuple[str, ...]
    nodes: tuple[NodeMark, ...]
    edges: tuple[EdgeMark, ...]
    n_layers: int
    n_heads: int
    ports: bool

    @property
    def marks(self) -> tuple[NodeMark | EdgeMark, ...]:
        """Edges and nodes."""
        return (*self.edges, *self.nodes)

    def strongest(self, most: int) -> tuple[EdgeMark, ...]:
        """At most so many edges, those of the largest shares, the weakest first; ties in the model's order."""
        ranked = sorted(self.edges, key=lambda edge: -_size(edge.share))
        return tuple(reversed(ranked[:most]))

    def used_ports(self) -> tuple[str, ...]:
        """q, k and v ports that edges end in, in the order of the model."""
        return tuple(sorted({e.receiver for e in self.edges if part_of(e.receiver)}, key=model_order))

    def others(self) -> tuple[Node, ...]:
        """Heads and MLPs that no circuit keeps."""
        kept = {mark.name for mark in self.nodes}
        layers = range(self.n_layers)
        every = [[*(Node("head", k, h) for h in range(self.n_heads)), Node("mlp", k)] for k in layers]
        return tuple(node for block in every for node in block if str(node) not in kept)


def parts_of(circuits: Sequence[Circuit], *, ports: bool, n_layers: int, n_heads: int) -> Parts:
    """The parts of one circuit or several in one model.

    Without `ports` the edges into a head's q, k and v are one edge with the score of the largest magnitude.
    Raises InvalidArgument for no circuit, too many, or a node outside of the model.
    """
    if not 1 <= len(circuits) <= MOST_CIRCUITS:
        raise InvalidArgument(f"a picture got {len(circuits)} circuits; give 1 to {MOST_CIRCUITS}")
    edges = [_edge_scores(circuit, ports) for circuit in circuits]
    nodes = [_node_scores(circuit, own) for circuit, own in zip(circuits, edges, strict=True)]
    for name in dict.fromkeys(name for own in nodes for name in own):
        _check(name, n_layers, n_heads)
    by_node = sorted(_merged(nodes), key=lambda one: part_order(one[0]))
    by_edge = sorted(_merged(edges), key=lambda one: part_order(one[0]))
    return Parts(
        labels_of(circuits),
        tuple(NodeMark(name, *numbers) for name, numbers in by_node),
        tuple(EdgeMark(sender, port, *numbers) for (sender, port), numbers in by_edge),
        n_layers,
        n_heads,
        ports,
    )


def shape_of(circuits: Sequence[Circuit]) -> tuple[int, int]:
    """Layers and heads of the model as far as scores and kept nodes name them, for pictures without the model."""
    shapes = [Shape.of(circuit.scores, circuit.nodes) for circuit in circuits]
    return max(shape.n_layers for shape in shapes), max(shape.n_heads for shape in shapes)


def labels_of(circuits: Sequence[Circuit]) -> tuple[str, ...]:
    """A different name for each circuit: its task, where needed with the method or a number."""
    for label in (
        [one.origin.task for one in circuits],
        [f"{one.origin.task}, {one.method}" for one in circuits],
    ):
        if len(set(label)) == len(label):
            return tuple(label)
    return tuple(f"{one.origin.task}, {one.method} ({n})" for n, one in enumerate(circuits, start=1))


def node_of(name: str) -> Node:
    """The node of a sender's, node's or port's name. Raises InvalidArgument for any other text."""
    level, head, _ = model_order(name)
    if name in ENDS:
        return ENDS[name]
    return Node("mlp", level) if part_kind(name) == "mlp" else Node("head", level, head)


def part_of(name: str) -> str:
    """q, k or v of a port's name, or nothing."""
    return name.split(".")[2] if name.count(".") == 2 else ""


def _check(name: str, n_layers: int, n_heads: int) -> None:
    node = node_of(name)
    if node.layer >= n_layers or node.head >= n_heads:
        raise InvalidArgument(
            f"node {name} is outside a model of {n_layers} layers with {n_heads} heads; draw circuits with the "
            "layers and heads of their own model"
        )


def _edge_scores(circuit: Circuit, ports: bool) -> dict[tuple[str, str], float]:
    edges = circuit.edges or ()
    found: dict[tuple[str, str], float] = {}
    for (sender, port), score in zip(edges, scores_of(circuit.scores, edges).tolist(), strict=True):
        edge = (sender, port if ports else str(node_of(port)))
        if edge not in found or _size(score) > _size(found[edge]):
            found[edge] = score
    return found


def _node_scores(circuit: Circuit, edges: Iterable[tuple[str, str]]) -> dict[str, float]:
    names = tuple(dict.fromkeys((*circuit.nodes, *(str(node_of(end)) for edge in edges for end in edge))))
    return dict(zip(names, scores_of(circuit.scores, names).tolist(), strict=True))


def _merged(
    found: Sequence[Mapping[Name, float]],
) -> list[tuple[Name, tuple[tuple[int, ...], tuple[float, ...], float]]]:
    """By name: the circuits that have it, their scores, and the mean share."""
    largest = [max(map(_size, scores.values()), default=0.0) or 1.0 for scores in found]
    merged = []
    for name in dict.fromkeys(name for scores in found for name in scores):
        members = tuple(number for number, scores in enumerate(found) if name in scores)
        scores = tuple(found[number][name] for number in members)
        shares = [score / largest[n] for n, score in zip(members, scores, strict=True) if score == score]
        merged.append((name, (members, scores, float(np.mean(shares)) if shares else np.nan)))
    return merged


def _size(score: float) -> float:
    """The magnitude of a score; 0 for none."""
    return 0.0 if score != score else abs(score)
