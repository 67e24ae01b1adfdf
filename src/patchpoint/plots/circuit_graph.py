"""The layered picture of circuits: nodes by layer and lane, edges as curves between them."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.path import Path

from patchpoint.circuits.circuit import Circuit

from .cells import new_figure, plain_settings, settle
from .circuit_layout import Layout
from .circuit_looks import FAINT, LOWERS, PLAIN, RAISES, UNSCORED, dashed, letters, look, sign_line
from .circuit_parts import EdgeMark, NodeMark, Parts, node_of, part_of, parts_of
from .labels import drawable, prose, shortened
from .lettering import caption_inches, caption_text, write_caption

MOST_EDGES = 1500
"""Edges beyond these, the weakest, are left out of pictures, whose caption says so."""
LANE_INCHES, LAYER_INCHES, PORT_LAYER_INCHES = 0.62, 0.42, 0.62
WIDEST, TALLEST, NARROWEST = 24.0, 40.0, 4.2
THINNEST, THICKEST = 0.35, 3.6
Dash = tuple[float, tuple[float, ...]]
SIZE, PORT_SIZE = 6.5, 4.5
SOLID: Dash = (0, ())
DASH: Dash = (0, (3.2, 1.6))
LABEL_LIMIT = 40
CURVE = (Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4)


def circuit_figure(
    circuits: Sequence[Circuit], *, ports: bool = False, n_layers: int, n_heads: int
) -> Figure:
    """One circuit, or several over each other, as a graph whose edges run upwards.

    Layers from the bottom up, heads side by side, MLPs in a lane at the right; with `ports` a head's q, k and v are
    drawn apart. Width is the magnitude of a score. One circuit: hue and dash say its sign; several: colour and
    letters say which of them have a part, dash the sign. Raises InvalidArgument for no circuit, too many, or a node
    that the model does not have.
    """
    parts = parts_of(circuits, ports=ports, n_layers=n_layers, n_heads=n_heads)
    layout = Layout.of(parts)
    width, height = _inches(layout)
    caption = caption_text(caption_lines(circuits, parts), 72 * (width - 0.2))
    with plain_settings():
        handles = _legend(parts)
        legend_inches = 0.2 * (1 + len(handles) // _columns(width)) + 0.15
        figure = new_figure(width, height + legend_inches + caption_inches(caption) + 0.35)
        axes = figure.subplots()
        _frame(axes, layout)
        _draw_others(axes, parts, layout)
        _draw_edges(axes, parts, layout)
        for mark in parts.nodes:
            _draw_node(axes, mark, parts, layout)
        style = {"fontsize": 7.5, "frameon": False, "handlelength": 2.6, "ncols": _columns(width)}
        figure.legend(handles=handles, loc="outside upper left", **style)
        write_caption(figure, caption)
        settle(figure)
    return figure


def caption_lines(circuits: Sequence[Circuit], parts: Parts) -> list[str]:
    """What a picture of circuits shows and how each of them was found."""
    said = []
    for number, circuit in enumerate(circuits):
        mark, origin = letters((number,), len(circuits)), circuit.origin
        settings = ", ".join(
            f"{name}={value}" for name, value in circuit.settings.items() if value is not None
        )
        made = [
            f"{origin.n_prompts} prompts",
            *([f"corruption {origin.corruption}"] if origin.corruption else []),
            *([f"seed {origin.seed}"] if origin.seed is not None else []),
        ]
        said.append(
            prose(f"{mark + ': ' if mark else ''}{circuit}; {', '.join(made)}; {settings or 'no settings'}")
        )
    if not parts.edges:
        outline = "" if len(circuits) > 1 else "; outline: |score| over the largest"
        return [*said, f"Filled: kept nodes; dots: all others{outline}; dashed: it lowers the metric."]
    dropped = len(parts.edges) - MOST_EDGES
    cut = f" The strongest {MOST_EDGES:,} of {len(parts.edges):,} edges are drawn." if dropped > 0 else ""
    merged = "" if parts.ports else "; edges into q, k and v of a head are one, that of the largest |score|"
    several = ", mean over the circuits that have it" if len(circuits) > 1 else ""
    width = f"Edges run upwards; width: |score| over the largest of its circuit{several}{merged}."
    return [*said, width + cut]


def edge_points(share: float) -> float:
    """Width of an edge in points."""
    return THINNEST + (THICKEST - THINNEST) * min(1.0, abs(share)) if share == share else THINNEST


def _inches(layout: Layout) -> tuple[float, float]:
    (left, low), (right, high) = layout.ends
    layer = PORT_LAYER_INCHES if layout.ports else LAYER_INCHES
    return min(max(LANE_INCHES * (right - left), NARROWEST), WIDEST), min(layer * (high - low), TALLEST)


def _frame(axes: Axes, layout: Layout) -> None:
    (left, low), (right, high) = layout.ends
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)
    axes.set_yticks(range(layout.n_layers), [str(layer) for layer in range(layout.n_layers)], size=7)
    lanes = [*range(layout.n_heads), layout.mlp_lane]
    names = [*map(str, range(layout.n_heads)), "MLP"]
    axes.set_xticks(lanes, names, size=7)
    axes.set_xlabel("head", size=8)
    axes.set_ylabel("layer", size=8)
    axes.tick_params(length=0, colors=PLAIN)
    for side in ("top", "right", "bottom", "left"):
        axes.spines[side].set_visible(False)
    for layer in range(0, layout.n_layers, 2):
        axes.axhspan(layer - 0.42, layer + 0.58, color="#f6f6f4", zorder=0, linewidth=0)


def _draw_others(axes: Axes, parts: Parts, layout: Layout) -> None:
    places = [layout.place(node) for node in parts.others()]
    if places:
        x, y = zip(*places, strict=True)
        axes.scatter(x, y, s=5, c=FAINT, linewidths=0, zorder=1)


def _draw_edges(axes: Axes, parts: Parts, layout: Layout) -> None:
    """Weak edges first, so that strong ones lie over them."""
    drawn = parts.strongest(MOST_EDGES)
    if drawn:
        axes.add_collection(
            PathCollection(
                [Path(layout.curve(edge.sender, edge.receiver), CURVE) for edge in drawn],
                facecolors="none",
                edgecolors=[edge_line(edge, parts) for edge in drawn],
                linewidths=[edge_points(edge.share) for edge in drawn],
                linestyles=[DASH if dashed(edge.share) else SOLID for edge in drawn],
                alpha=0.8,
                zorder=2,
            )
        )
    for port in parts.used_ports():
        (x, y), node = layout.entry(port), layout.place(node_of(port))
        axes.plot((x, node[0]), (y, node[1]), color=PLAIN, linewidth=0.6, zorder=2.5)
        box: dict[str, Any] = {
            "boxstyle": "circle,pad=0.15",
            "facecolor": "white",
            "edgecolor": PLAIN,
            "linewidth": 0.5,
        }
        axes.text(x, y, part_of(port), size=PORT_SIZE, ha="center", va="center", bbox=box, zorder=3)


def edge_line(mark: EdgeMark, parts: Parts) -> str:
    """The colour of an edge."""
    single = len(parts.labels) == 1
    return sign_line(mark.share) if single else look(mark.members, parts.labels).line


def node_text(mark: NodeMark, parts: Parts) -> str:
    """What stands in a node: its name, and letters for its circuits where there are several."""
    name = mark.name.replace("mlp", "MLP")
    return f"{name} {letters(mark.members, len(parts.labels))}".strip()


def _draw_node(axes: Axes, mark: NodeMark, parts: Parts, layout: Layout) -> None:
    own, node = look(mark.members, parts.labels), node_of(mark.name)
    scored = mark.share == mark.share
    single = len(parts.labels) == 1
    outline = own.outline + 1.4 * min(1.0, abs(mark.share)) if scored and single else own.outline
    box: dict[str, Any] = {
        "boxstyle": "round,pad=0.28" if node.kind == "head" else "square,pad=0.3",
        "facecolor": "white" if node.kind in ("embed", "logits") else own.fill,
        "edgecolor": sign_line(mark.share) if single and scored else PLAIN if single else own.line,
        "linewidth": outline,
        "linestyle": "--" if dashed(mark.share) else "-",
    }
    heavy = "bold" if len(mark.members) == len(parts.labels) > 1 else "normal"
    x, y = layout.place(node)
    style: dict[str, Any] = {"size": SIZE, "ha": "center", "va": "center", "fontweight": heavy, "zorder": 4}
    axes.text(x, y, drawable(node_text(mark, parts)), bbox=box, **style)


def _columns(width: float) -> int:
    return max(1, int(width / 2.6))


def _legend(parts: Parts) -> list[Patch | Line2D]:
    """Which colour stands for which circuits; of a single one, which line for which sign."""
    if len(parts.labels) == 1:
        scored = [mark.share for mark in parts.marks]
        lines = (
            ("raises the metric", RAISES, SOLID, any(share >= 0 for share in scored)),
            ("lowers the metric", LOWERS, DASH, any(share < 0 for share in scored)),
            ("not scored", UNSCORED, SOLID, any(share != share for share in (e.share for e in parts.edges))),
        )
        return [
            Line2D([], [], color=colour, linestyle=dash, linewidth=2, label=label)
            for label, colour, dash, shown in lines
            if shown
        ]
    shown = sorted({mark.members for mark in parts.marks}, key=lambda m: (len(m), m))
    handles: dict[str, Patch | Line2D] = {}
    for members in shown:
        own, several = look(members, parts.labels), len(members)
        mark = letters(members, len(parts.labels)) if own.label.count(" of ") == 0 else ""
        label = f"{mark} {shortened(drawable(prose(own.label)), LABEL_LIMIT)}".strip()
        edge: dict[str, Any] = {
            "facecolor": own.fill,
            "edgecolor": own.line,
            "linewidth": min(2.0, 0.6 + 0.4 * several),
        }
        handles.setdefault(label, Patch(label=label, **edge))
    if any(dashed(mark.share) for mark in parts.marks):
        handles["-"] = Line2D([], [], color=PLAIN, linestyle=DASH, label="dashed: lowers the metric")
    return list(handles.values())
