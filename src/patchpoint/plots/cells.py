"""Pieces that every matplotlib heatmap here is made of: cells, ticks, colour bar, wrapped text, caption.

All of it runs inside `rc_context(TEXT)`, so a user's own matplotlib settings neither change the figures
nor are changed by them.
"""

import math
import textwrap
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .labels import FONT, drawable, prose

TEXT = {
    "font.family": FONT,
    "font.size": 9.0,
    "text.usetex": False,
    "text.parse_math": False,
    "axes.formatter.use_mathtext": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#444444",
    "axes.facecolor": "white",
    "figure.facecolor": "white",
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
}
CAPTION_SIZE = 7.5
RECTANGLES = 2000
TICK_EVERY = 5
ROW_INCHES = 0.23
LAYER_INCHES = 0.15


def draw_cells(
    axes: Axes, values: Float[np.ndarray, "row layer"], colours: Colormap, limits: tuple[float, float]
) -> ScalarMappable:
    """Draw one cell per value, row 0 on top, cell (i, j) centred on y = i, x = j.

    Up to RECTANGLES cells are rectangles, sharp at any size; above that one embedded raster keeps SVG and
    PDF files small.
    """
    rows, layers = values.shape
    norm = Normalize(*limits)
    cells = np.ma.masked_invalid(values)
    mappable: ScalarMappable
    if values.size <= RECTANGLES:
        edges = np.arange(layers + 1) - 0.5, np.arange(rows + 1) - 0.5
        mappable = axes.pcolormesh(*edges, cells, cmap=colours, norm=norm, edgecolors="white", linewidth=0.3)
    else:
        mappable = axes.imshow(cells, cmap=colours, norm=norm, aspect="auto", interpolation="nearest")
    axes.set_xlim(-0.5, layers - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    return mappable


def layer_ticks(axes: Axes, layers: Sequence[int | str]) -> None:
    """A tick at every TICK_EVERY-th layer, labelled with the layer's own name."""
    ticks = range(0, len(layers), TICK_EVERY)
    axes.set_xticks(ticks, [drawable(prose(str(layers[i]))) for i in ticks], parse_math=False)
    axes.tick_params(axis="both", length=2.5, pad=2)


def colour_bar(figure: Figure, mappable: ScalarMappable, axes: Sequence[Axes], title: str) -> Colorbar:
    """A colour bar beside `axes`, its title above it in lines that fit."""
    bar = figure.colorbar(mappable, ax=list(axes), fraction=0.08, aspect=22, pad=0.02)
    bar.outline.set_linewidth(0.4)  # type: ignore[operator]
    bar.locator = MaxNLocator(nbins=6)
    bar.ax.tick_params(length=2.5, labelsize=8)
    bar.set_label(drawable(title), size=8.5)
    return bar


def extent(text: str, size: float) -> float:
    """Width in points of one line of drawable `text` at font size `size`."""
    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties(family=FONT)))
    font.set_size(size, 72)
    font.set_text(text, 0.0)
    return float(font.get_width_height()[0]) / 64


def wrapped(text: str, width: float, size: float) -> str:
    """Drawable `text` broken into lines at most `width` points wide at font size `size`."""
    columns = max(1, math.ceil(len(text) * width / max(1.0, extent(text, size))))
    lines = textwrap.wrap(text, columns)
    while columns > 1 and any(extent(line, size) > width for line in lines):
        columns -= 1
        lines = textwrap.wrap(text, columns)
    return "\n".join(lines)


def caption_text(lines: Sequence[str], width: float) -> str:
    """Caption lines, each wrapped to `width` points, repeated lines once."""
    return "\n".join(wrapped(drawable(line), width, CAPTION_SIZE) for line in dict.fromkeys(lines))


def write_caption(figure: Figure, text: str) -> None:
    """Put `text` below everything else, flush left."""
    figure.supxlabel(text, x=0.01, ha="left", fontsize=CAPTION_SIZE, color="#333333", linespacing=1.35)
