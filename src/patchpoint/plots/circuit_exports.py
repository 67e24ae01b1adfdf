"""Circuits for other programs: DOT for Graphviz, GraphML for Gephi and Cytoscape, node-link JSON for D3."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import networkx  # type: ignore[import-untyped]

from patchpoint.circuits.circuit import Circuit

from .circuit_graph import edge_line, edge_points
from .circuit_layout import Layout
from .circuit_looks import dashed, look
from .circuit_parts import EdgeMark, NodeMark, Parts, node_of, part_of, parts_of
from .labels import prose

POINTS_PER_LANE, POINTS_PER_LAYER = 60, 45


def circuit_network(
    circuits: Sequence[Circuit], *, ports: bool = True, n_layers: int, n_heads: int
) -> networkx.DiGraph:
    """Kept nodes and edges of one circuit or several of one model, all of them, with their numbers as attributes.

    Nodes: kind (embed, head, mlp, logits, port), layer, head (-1: none), part (q, k, v of ports), x, y (lanes, layers
    from the bottom), circuits. Edges: kind (edge; port: from a port to its head), circuits. Both: `share`, the
    score over the largest of its circuit, mean over circuits, and for one circuit `score`; absent where not scored.
    Raises as `circuit_figure`.
    """
    return _network(parts_of(circuits, ports=ports, n_layers=n_layers, n_heads=n_heads))


def graphml_text(circuits: Sequence[Circuit], *, ports: bool = True, n_layers: int, n_heads: int) -> str:
    """`circuit_network` as GraphML."""
    network = circuit_network(circuits, ports=ports, n_layers=n_layers, n_heads=n_heads)
    return "\n".join(networkx.generate_graphml(network)) + "\n"


def json_text(circuits: Sequence[Circuit], *, ports: bool = True, n_layers: int, n_heads: int) -> str:
    """`circuit_network` as node-link JSON: `nodes` with their id, `edges` with source and target."""
    network = circuit_network(circuits, ports=ports, n_layers=n_layers, n_heads=n_heads)
    return json.dumps(networkx.node_link_data(network, edges="edges"), indent=1, allow_nan=False) + "\n"


def dot_text(circuits: Sequence[Circuit], *, ports: bool = True, n_layers: int, n_heads: int) -> str:
    """A Graphviz digraph in the colours of the picture; `neato -n` keeps the places, `dot` finds its own.

    Raises as `circuit_figure`.
    """
    parts = parts_of(circuits, ports=ports, n_layers=n_layers, n_heads=n_heads)
    layout = Layout.of(parts)
    title = "; ".join(prose(str(circuit)) for circuit in circuits)
    lines = [
        "digraph circuit {",
        f"  graph [rankdir=BT, ranksep=0.45, nodesep=0.11, label={_quoted(title)}];",
        '  node [style=filled, fontname="Arial", fontsize=12, shape=box];',
    ]
    lines += [_dot_node(mark, parts, layout) for mark in parts.nodes]
    for port in parts.used_ports():
        place = _pos(layout.entry(port))
        lines.append(
            f"  {_quoted(port)} [label={part_of(port)}, shape=circle, fillcolor=white, pos={place}];"
        )
        lines.append(f"  {_quoted(port)} -> {_quoted(str(node_of(port)))} [arrowhead=none];")
    lines += [_dot_edge(mark, parts) for mark in parts.edges]
    return "\n".join([*lines, *_ranks(parts), "}"]) + "\n"


Export = Callable[..., str]
EXPORTS: dict[str, Export] = {"dot": dot_text, "graphml": graphml_text, "json": json_text}
"""By file ending, what writes circuits for other programs."""


def _network(parts: Parts) -> networkx.DiGraph:
    network, layout = networkx.DiGraph(), Layout.of(parts)
    for mark in parts.nodes:
        node = node_of(mark.name)
        layer = -1 if node.kind in ("embed", "logits") else node.layer
        head = node.head if node.kind == "head" else -1
        x, y = layout.place(node)
        network.add_node(mark.name, kind=node.kind, layer=layer, head=head, x=x, y=y, **_numbers(mark, parts))
    for port in parts.used_ports():
        node, (x, y) = node_of(port), layout.entry(port)
        network.add_node(port, kind="port", layer=node.layer, head=node.head, part=part_of(port), x=x, y=y)
        network.add_edge(port, str(node), kind="port")
    for edge in parts.edges:
        network.add_edge(edge.sender, edge.receiver, kind="edge", **_numbers(edge, parts))
    return network


def _numbers(mark: NodeMark | EdgeMark, parts: Parts) -> dict[str, Any]:
    found: dict[str, Any] = {"circuits": "; ".join(prose(parts.labels[member]) for member in mark.members)}
    if mark.share == mark.share:
        found["share"] = mark.share
        if len(parts.labels) == 1:
            found["score"] = mark.scores[0]
    return found


def _dot_node(mark: NodeMark, parts: Parts, layout: Layout) -> str:
    own = look(mark.members, parts.labels)
    attributes = {
        "fillcolor": own.fill,
        "color": own.line,
        "penwidth": f"{own.outline:g}",
        "tooltip": _numbers(mark, parts)["circuits"],
    }
    said = ", ".join(f"{name}={_quoted(value)}" for name, value in attributes.items())
    return f"  {_quoted(mark.name)} [{said}, pos={_pos(layout.place(node_of(mark.name)))}];"


def _dot_edge(mark: EdgeMark, parts: Parts) -> str:
    numbers = _numbers(mark, parts)
    weight = f", weight={1 + round(99 * abs(mark.share))}" if "share" in numbers else ""
    score = numbers.get("score", numbers.get("share"))
    tooltip = f"{mark.sender} -> {mark.receiver}: {'not scored' if score is None else f'{score:.6g}'}"
    style = "dashed" if dashed(mark.share) else "solid"
    return (
        f"  {_quoted(mark.sender)} -> {_quoted(mark.receiver)} [color={_quoted(edge_line(mark, parts))}, "
        f"penwidth={edge_points(mark.share):.3g}, style={style}{weight}, tooltip={_quoted(tooltip)}];"
    )


def _ranks(parts: Parts) -> list[str]:
    """Nodes of a layer side by side; an MLP reads the heads of its layer and has a rank of its own."""
    by_rank: dict[tuple[int, str], list[str]] = {}
    for mark in parts.nodes:
        node = node_of(mark.name)
        by_rank.setdefault((node.layer, node.kind), []).append(mark.name)
    return [f"  {{rank=same; {'; '.join(map(_quoted, names))}}}" for names in by_rank.values()]


def _pos(place: tuple[float, float]) -> str:
    return f'"{place[0] * POINTS_PER_LANE:g},{place[1] * POINTS_PER_LAYER:g}"'


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
