"""The parts every matplotlib heatmap here is made of: cells, ticks, colour bar, and their sizes.

Figures are built inside `plain_settings()`, so a user's own matplotlib settings neither change them nor
are changed by them.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
from jaxtyping import Bool, Float
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from .labels import FONT, drawable, prose
from .lettering import wrapped

TITLE_SIZE = 9.5
AXIS_SIZE = 9.0
LABEL_SIZE = 9.0
DOT_POINTS = 1.3
BAR_SIZE = 8.5
BAR_INCHES = 0.95
LONGEST_BAR = 4.5
EDGE_INCHES = 0.9
RECTANGLES = 2000
BAR_STEPS = 96
TICK_EVERY = 5


def plain_settings() -> AbstractContextManager[None]:
    """matplotlib settings of every figure here: one known font, and text that is never TeX or mathematics."""
    return rc_context(
        {
            "font.family": FONT,
            "font.size": AXIS_SIZE,
            "text.usetex": False,
            "text.parse_math": False,
            "axes.formatter.use_mathtext": False,
            "axes.linewidth": 0.6,
            "axes.edgecolor": "#444444",
            "figure.facecolor": "white",
            "pdf.fonttype": 42,
            "savefig.bbox": None,
            "xtick.major.width": 0.6,
            "ytick.major.width": 0.6,
        }
    )


def panel_inches(rows: int, layers: int) -> tuple[float, float]:
    """Width and height of the cells: growing with their number up to a limit, never too small to read."""
    return min(max(0.15 * layers, 2.6), 7.5), min(max(0.23 * rows, 0.9), 13.0)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that size in inches that keeps its parts from overlapping."""
    engine = ConstrainedLayoutEngine(w_pad=0.07, h_pad=0.06, wspace=0.03)
    return Figure(figsize=(width, height), layout=engine)


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
    axes.tick_params(length=2.5, pad=2)
    return mappable


def dot_cells(axes: Axes, dotted: Bool[np.ndarray, "row layer"]) -> None:
    """Put a dot, seen on light and on dark colours, into each cell where `dotted` is true."""
    rows, layers = np.nonzero(dotted)
    if len(rows):
        size = DOT_POINTS**2 * 2
        axes.scatter(layers, rows, s=size, c="#333333", edgecolors="white", linewidths=0.25, zorder=3)


def layer_ticks(axes: Axes, layers: Sequence[int | str]) -> None:
    """A tick at every TICK_EVERY-th layer, labelled with the layer's own name."""
    ticks = range(0, len(layers), TICK_EVERY)
    axes.set_xticks(ticks, [drawable(prose(str(layers[i]))) for i in ticks], parse_math=False)


def panel_titles(axes: Axes, width: float, *, title: str, axis: str) -> None:
    """Title above and layer axis title below a panel `width` inches wide, in lines that fit."""
    axes.set_title(wrapped(prose(title), 72 * width, TITLE_SIZE), size=TITLE_SIZE)
    axes.set_xlabel(wrapped(prose(axis), 72 * width, AXIS_SIZE), size=AXIS_SIZE)


def colour_bar(mappable: ScalarMappable, panels: Sequence[Axes], height: float, title: str) -> Colorbar:
    """A colour bar right of `panels` that are `height` inches high, its title along it in lines that fit."""
    length = min(height, LONGEST_BAR)
    figure = panels[0].get_figure(root=True)
    assert figure is not None
    bar = figure.colorbar(
        mappable,
        ax=list(panels),
        boundaries=_steps(mappable),
        spacing="proportional",
        aspect=72 * length / 10,
        shrink=length / height,
        anchor=(0.0, 1.0),
        fraction=0.1,
        pad=0.03,
    )
    return _dressed(bar, length, title)


def inset_bar(mappable: ScalarMappable, panels: Sequence[Axes], height: float, title: str) -> Colorbar:
    """A colour bar close to the right edge of one panel, whatever else stands right of those below it."""
    (axes,) = panels
    figure = axes.get_figure(root=True)
    assert figure is not None
    place = axes.inset_axes((1.02, 0, 0.025, 1))
    bar = figure.colorbar(mappable, cax=place, boundaries=_steps(mappable), spacing="proportional")
    return _dressed(bar, height, title)


def _steps(mappable: ScalarMappable) -> Float[np.ndarray, " end"]:
    """Ends of a bar's steps: enough to look smooth, few enough to keep SVG and PDF files small."""
    return np.linspace(*mappable.get_clim(), BAR_STEPS + 1)


def _dressed(bar: Colorbar, length: float, title: str) -> Colorbar:
    # matplotlib would make the bar a raster and, in a PDF of many pages, hold a raster of each page for it.
    assert bar.solids is not None
    bar.solids.set(rasterized=False, edgecolor="face")
    bar.locator = MaxNLocator(nbins=max(2, min(6, int(length / 0.3))))
    bar.ax.tick_params(length=2.5, labelsize=8)
    bar.set_label(wrapped(title, 72 * length, BAR_SIZE), size=BAR_SIZE)
    return bar


def settle(figure: Figure) -> None:
    """Fix where everything is, so that saving a figure again, or in another format, moves nothing."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
