"""An interactive page of circuits: one HTML file with everything inside, nothing is ever fetched."""

import json
from collections.abc import Sequence
from typing import Any

from patchpoint.circuits.circuit import Circuit

from .circuit_graph import MOST_EDGES, caption_lines, edge_line, edge_points
from .circuit_layout import Layout, middle
from .circuit_looks import PLAIN, dashed, letters, look, sign_line
from .circuit_parts import EdgeMark, NodeMark, Parts, node_of, part_of, parts_of
from .circuit_script import PAGE, SCRIPT, SLIDER
from .labels import escaped, plotly_text, prose
from .page import DELIVERY, FONTS

LAYER_PIXELS, PORT_LAYER_PIXELS, LANE_PIXELS, AROUND = 40, 62, 78, 120
HEAD_PIXELS, BLOCK_PIXELS = 27, 34


def circuit_html(circuits: Sequence[Circuit], *, ports: bool = False, n_layers: int, n_heads: int) -> str:
    """The picture of `circuit_figure` as a page: names and numbers on hover, a slider that hides weak edges.

    A click on a node leaves only its inputs and outputs; the address of the page keeps the slider and the node.
    Tables of nodes and edges below hold the same numbers. Raises as `circuit_figure`.
    """
    from plotly.offline import get_plotlyjs

    parts = parts_of(circuits, ports=ports, n_layers=n_layers, n_heads=n_heads)
    layout, drawn = Layout.of(parts), parts.strongest(MOST_EDGES)
    models = dict.fromkeys(circuit.origin.model for circuit in circuits)
    data = {
        "nodes": [_node(mark, parts, layout) for mark in parts.nodes],
        "ports": [_port(name, layout) for name in parts.used_ports()],
        "others": [_other(str(node), *layout.place(node)) for node in parts.others()],
        "edges": [_edge(mark, parts, layout) for mark in drawn],
        "layout": _plot_layout(layout),
    }
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return PAGE.substitute(
        title=escaped(prose(f"Circuits in {', '.join(models)}: {', '.join(parts.labels)}")),
        caption="<br>".join(map(escaped, caption_lines(circuits, parts))),
        legend=_legend(parts),
        slider=SLIDER if drawn else "",
        tables=_table("Nodes", ("node",), [((mark.name,), mark) for mark in parts.nodes], parts)
        + _table("Edges", ("sender", "receiver"), [((m.sender, m.receiver), m) for m in drawn[::-1]], parts),
        plotly=DELIVERY.sub("about:blank", get_plotlyjs()),
        data=text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"),
        script=SCRIPT,
    )


def _node(mark: NodeMark, parts: Parts, layout: Layout) -> dict[str, Any]:
    own, node = look(mark.members, parts.labels), node_of(mark.name)
    single = len(parts.labels) == 1
    x, y = layout.place(node)
    return {
        "name": mark.name,
        "x": x,
        "y": y,
        "text": mark.name.replace("mlp", "MLP"),
        "hover": _hover(mark.name, mark, parts),
        "fill": own.fill,
        "line": (sign_line(mark.share) if mark.share == mark.share else PLAIN) if single else own.line,
        "width": own.outline,
        "symbol": "circle" if node.kind == "head" else "square",
        "size": HEAD_PIXELS if node.kind == "head" else BLOCK_PIXELS,
    }


def _other(name: str, x: float, y: float) -> dict[str, Any]:
    return {"x": x, "y": y, "hover": f"{name}: not kept"}


def _port(name: str, layout: Layout) -> dict[str, Any]:
    (x, y), (node_x, node_y) = layout.entry(name), layout.place(node_of(name))
    line = f"M {x},{y} L {node_x},{node_y}"
    return {"x": x, "y": y, "text": part_of(name), "hover": name, "name": str(node_of(name)), "path": line}


def _edge(mark: EdgeMark, parts: Parts, layout: Layout) -> dict[str, Any]:
    curve = layout.curve(mark.sender, mark.receiver)
    (x0, y0), *rest = [(round(x, 3), round(y, 3)) for x, y in curve]
    return {
        "ends": [mark.sender, str(node_of(mark.receiver))],
        "path": f"M {x0},{y0} C {' '.join(f'{x},{y}' for x, y in rest)}",
        "middle": [round(value, 3) for value in middle(curve)],
        "hover": _hover(f"{mark.sender} → {mark.receiver}", mark, parts),
        "size": abs(mark.share) if mark.share == mark.share else 0,
        "color": edge_line(mark, parts),
        "width": round(edge_points(mark.share), 2),
        "dash": "dash" if dashed(mark.share) else "solid",
    }


def _hover(name: str, mark: NodeMark | EdgeMark, parts: Parts) -> str:
    """What a node or an edge says of itself, as Plotly text: its score in each circuit that has it."""
    lines = [
        f"{prose(parts.labels[member])}: {_written(score)}"
        for member, score in zip(mark.members, mark.scores, strict=True)
    ]
    return "<br>".join(map(plotly_text, (prose(name), *lines)))


def _written(score: float) -> str:
    return f"score {score:.4g}" if score == score else "not scored"


def _plot_layout(layout: Layout) -> dict[str, Any]:
    (left, low), (right, high) = layout.ends
    axis = {"showgrid": False, "zeroline": False, "ticks": "", "automargin": True}
    layer = PORT_LAYER_PIXELS if layout.ports else LAYER_PIXELS
    return {
        "height": round(layer * (high - low)) + AROUND,
        "width": round(LANE_PIXELS * (right - left)) + AROUND,
        "margin": {"l": 20, "r": 20, "t": 20, "b": 40},
        "font": {"family": FONTS, "size": 12},
        "plot_bgcolor": "white",
        "showlegend": False,
        "hovermode": "closest",
        "hoverlabel": {"align": "left"},
        "xaxis": axis
        | {
            "title": {"text": "head"},
            "range": [left, right],
            "tickvals": [*range(layout.n_heads), layout.mlp_lane],
            "ticktext": [*map(str, range(layout.n_heads)), "MLP"],
        },
        "yaxis": axis
        | {
            "title": {"text": "layer"},
            "range": [low, high],
            "tickvals": list(range(layout.n_layers)),
            "ticktext": [str(number) for number in range(layout.n_layers)],
        },
    }


def _legend(parts: Parts) -> str:
    """Colours and letters of several circuits as HTML; a single one's lines are told by its caption."""
    if len(parts.labels) == 1:
        return "<p>Red, solid: raises the metric. Blue, dashed: lowers it.</p>"
    shown = sorted({mark.members for mark in parts.marks}, key=lambda m: (len(m), m))
    looks = {look(members, parts.labels).label: look(members, parts.labels) for members in shown}
    items = "".join(
        f'<span class="key"><span style="background:{own.fill};border:2px solid {own.line}"></span>'
        f"{escaped(prose(label))}</span>"
        for label, own in looks.items()
    )
    return f"<p>{items} dashed: lowers the metric</p>"


def _table(
    title: str,
    names: Sequence[str],
    rows: Sequence[tuple[tuple[str, ...], NodeMark | EdgeMark]],
    parts: Parts,
) -> str:
    """The numbers of all nodes or of the drawn edges, readable without any script."""
    if not rows:
        return ""
    many = len(parts.labels) > 1
    labels = [f"{letters((n,), 2) + ': ' if many else ''}{label}" for n, label in enumerate(parts.labels)]
    head = "".join(f'<th scope="col">{escaped(prose(name))}</th>' for name in (*names, *labels))
    body = []
    for own, mark in rows:
        scores = dict(zip(mark.members, mark.scores, strict=True))
        cells = [
            ""
            if member not in scores
            else "kept"
            if scores[member] != scores[member]
            else f"{scores[member]:.4g}"
            for member in range(len(labels))
        ]
        body.append(f"<tr>{''.join(f'<td>{escaped(cell)}</td>' for cell in (*own, *cells))}</tr>")
    return (
        f"<details><summary>{title}: {len(rows):,}</summary><div class=wide><table><caption>Scores; kept: in the "
        f"circuit, but not scored</caption><thead><tr>{head}</tr></thead>\n<tbody>{chr(10).join(body)}</tbody>"
        "</table></div></details>"
    )
