"""Curves of an experiment over one quantity: noise level, position of a fact, or layer, with intervals."""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from patchpoint.errors import InvalidArgument

from .about import About
from .cells import AXIS_SIZE, new_figure, plain_settings, settle
from .labelled import interval_words, table
from .labels import drawable, prose, shortened
from .lettering import caption_inches, caption_text, extent, wrapped, write_caption
from .strokes import Course, draw_course, strokes

WIDTH, HEIGHT = 6.5, 3.4
EDGES = 1.0, 0.6
TITLE_WIDTH = 5.8
LEGEND_SIZE = 8.0
TWO_COLUMNS = 3.0
LABEL_LIMIT = 60
MOST_TICKS = 13
SCALES = {False: "linear", True: "log"}


def curve(
    curves: Mapping[str, xr.Dataset],
    *,
    x_title: str,
    y_title: str,
    about: About,
    log_x: bool = False,
    marked: float | None = None,
) -> Figure:
    """Lines with their intervals, each with its own marker and dash besides its hue.

    Each dataset has `mean`, `low` and `high` over one dim, the same in all, whose coordinate is the x axis:
    numbers, or texts, which become equally spaced names in order of first appearance. `low` and `high` may be
    NaN where there is no interval. `marked` is an x at which a vertical line stands, such as a level found.

    Raises InvalidArgument without a curve, for a dataset of another form, for dims that differ, and for
    texts, or numbers not above 0, on a logarithmic axis.
    """
    if not curves:
        raise InvalidArgument("a figure of curves got none; give at least one")
    dim, courses = _courses(curves)
    places, names = _places(curves, dim, log_x, marked)
    interval = interval_words(next(iter(curves.values())))
    caption = caption_text((*about.caption, f"Bands and bars: {interval}"), 72 * (WIDTH + EDGES[0] - 0.2))
    labels = [drawable(shortened(prose(label), LABEL_LIMIT)) for label in curves]
    columns = 2 if max(extent(label, LEGEND_SIZE) for label in labels) < 72 * TWO_COLUMNS else 1
    with plain_settings():
        height = HEIGHT + EDGES[1] + 0.18 * -(-len(curves) // columns) + caption_inches(caption)
        figure = new_figure(WIDTH + EDGES[0], height)
        axes = figure.subplots()
        axes.set_xscale(SCALES[log_x])
        for label, course, x, stroke in zip(labels, courses, places, strokes(len(curves)), strict=True):
            order = np.argsort(x)
            draw_course(axes, x[order], course.at(order), stroke, label)
        _ticks(axes, np.unique(np.concatenate(places)), names, log_x)
        _titles(axes, x_title, y_title, marked)
        figure.legend(loc="outside upper left", ncols=columns, frameon=False, fontsize=LEGEND_SIZE)
        write_caption(figure, caption)
        settle(figure)
    return figure


def _courses(curves: Mapping[str, xr.Dataset]) -> tuple[str, list[Course]]:
    """The one dim and each curve's numbers over it, checked."""
    dims = {str(dim) for data in curves.values() for dim in data.dims}
    if len(dims) != 1:
        raise InvalidArgument(f"curves over dims {sorted(dims)}, expected one dim, the same in all")
    dim = dims.pop()
    found = [table(data, ("mean", "low", "high"), (dim,)) for data in curves.values()]
    return dim, [Course(data["mean"], data["low"], data["high"]) for data in found]


def _places(
    curves: Mapping[str, xr.Dataset], dim: str, log_x: bool, marked: float | None
) -> tuple[list[Float[np.ndarray, " point"]], list[str] | None]:
    """Where each curve's points stand along x, and the names of the places when they are texts."""
    coordinates = [data[dim].values for data in curves.values()]
    if all(np.issubdtype(values.dtype, np.number) for values in coordinates):
        places = [values.astype(np.float64) for values in coordinates]
        ends = np.concatenate([*places, [] if marked is None else [marked]])
        if not np.isfinite(ends).all() or (log_x and (ends <= 0).any()):
            least = " above 0, as its axis is logarithmic" if log_x else ""
            raise InvalidArgument(f"{dim} holds {ends.min():g} to {ends.max():g}; give finite numbers{least}")
        return places, None
    if log_x or marked is not None:
        raise InvalidArgument(
            f"{dim} holds texts, which have no logarithm and no mark between; give numbers or leave these out"
        )
    names = list(dict.fromkeys(str(value) for values in coordinates for value in values))
    return [np.array([names.index(str(value)) for value in values], float) for values in coordinates], names


def _ticks(axes: Axes, places: Float[np.ndarray, " place"], names: list[str] | None, log_x: bool) -> None:
    if names is not None:
        room = 72 * WIDTH / len(names)
        texts = [wrapped(shortened(prose(name), LABEL_LIMIT), room, AXIS_SIZE) for name in names]
        axes.set_xticks(range(len(names)), texts, parse_math=False)
        axes.set_xlim(-0.5, len(names) - 0.5)
    elif log_x:
        axes.xaxis.set_major_locator(FixedLocator(_apart(places)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=bool((places % 1 == 0).all())))


def _apart(places: Float[np.ndarray, " place"]) -> list[float]:
    """The places whose labels have room on a logarithmic axis, powers of ten first."""
    logs = np.log10(places)
    least = (logs.max() - logs.min()) / MOST_TICKS
    kept: list[float] = []
    for log in sorted(logs.tolist(), key=lambda log: (abs(log - round(log)) > 1e-9, log)):
        if all(abs(log - other) >= least for other in kept):
            kept.append(log)
    return sorted(places[logs.tolist().index(log)] for log in kept)


def _titles(axes: Axes, x_title: str, y_title: str, marked: float | None) -> None:
    axes.axhline(0, color="#888888", linewidth=0.6)
    axes.set_xlabel(wrapped(prose(x_title), 72 * TITLE_WIDTH, AXIS_SIZE), size=AXIS_SIZE)
    axes.set_ylabel(wrapped(prose(y_title), 72 * HEIGHT, AXIS_SIZE), size=AXIS_SIZE)
    axes.tick_params(length=2.5, pad=2)
    if marked is not None:
        axes.axvline(marked, color="#444444", linewidth=0.9, linestyle=(0, (2, 2)))
        text = axes.annotate(f" {marked:.4g}", (marked, 1.0), xycoords=("data", "axes fraction"), va="top")
        text.set_fontsize(LEGEND_SIZE)
