"""Averages by token role as lines over layers, each with its interval and its peak; alone or below a heatmap."""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .about import About
from .averages import DIMS, MEAN, draw_kind
from .cells import (
    AXIS_SIZE,
    EDGE_INCHES,
    inset_bar,
    layer_ticks,
    new_figure,
    panel_inches,
    plain_settings,
    settle,
)
from .labelled import interval_words, role_label_inches, table
from .labels import drawable, prose
from .lettering import caption_inches, caption_text, extent, wrapped, write_caption
from .measures import MeasureLook, in_percent, look_of
from .strokes import Course, draw_course, strokes
from .styles import layer_axis

LEGEND_SIZE = 8.0
HANDLE_INCHES = 0.65
LINES_HEIGHT = 3.6
AXIS_INCHES = 0.75
FURTHEST = {"restore": np.nanargmax, "corrupt": np.nanargmin}
"""By direction, where a mean is furthest on the side expected of effects."""


@dataclass(frozen=True, eq=False)
class RoleLine:
    """One role's course over layers and what the legend says of it."""

    course: Course
    label: str
    peak: int | None


def role_lines(averages: xr.Dataset, about: About, *, measure: str = "indirect_effect") -> Figure:
    """One line per token role over layers, with the interval of each mean as a band and its peak ringed.

    `averages` is a dataset of `tracing.averages.role_averages` of `measure`. The legend gives each peak, the
    mean furthest on the side expected in this direction, with its interval and layer.

    Raises InvalidArgument for a dataset without mean, low, high or facts, UnknownName for a measure.
    """
    lines = _lines(averages, about, measure)
    width, _ = panel_inches(len(lines), averages.sizes["layer"])
    total = AXIS_INCHES + max(width, 4.0) + _legend_inches(lines)
    caption = caption_text(_caption(averages, about), 72 * (total - 0.2))
    with plain_settings():
        figure = new_figure(total, LINES_HEIGHT + 0.5 + caption_inches(caption))
        _draw(figure.subplots(), averages, lines, about, measure, max(width, 4.0))
        write_caption(figure, caption)
        settle(figure)
    return figure


def role_summary(averages: xr.Dataset, about: About, *, measure: str = "indirect_effect") -> Figure:
    """The heatmap of means by role and layer, and below it, over the same layers, the lines of `role_lines`.

    Raises as `role_lines` does, and InvalidArgument for a dataset without count.
    """
    lines = _lines(averages, about, measure)
    width, height = panel_inches(len(lines), averages.sizes["layer"])
    total = role_label_inches(averages) + max(width, 4.0) + _legend_inches(lines)
    caption = caption_text(_caption(averages, about), 72 * (total - 0.2))
    with plain_settings():
        figure = new_figure(total, height + EDGE_INCHES + LINES_HEIGHT + 0.5 + caption_inches(caption))
        above, below = figure.subplots(2, 1, height_ratios=(height, LINES_HEIGHT))
        draw_kind(above, averages, MEAN, measure, about, (max(width, 4.0), height), inset_bar)
        _draw(below, averages, lines, about, measure, max(width, 4.0))
        above.set(title="", xlabel="")
        write_caption(figure, caption)
        settle(figure)
    return figure


def _lines(averages: xr.Dataset, about: About, measure: str) -> list[RoleLine]:
    found = table(averages, ("mean", "low", "high", "facts"), DIMS)
    layers, rows = averages["layer"].values.tolist(), []
    for row, role in enumerate(averages["role"].values.tolist()):
        course = Course(*(found[name][row] for name in ("mean", "low", "high")))
        peak = None if np.isnan(course.mean).all() else int(FURTHEST[about.direction](course.mean))
        facts = int(found["facts"][row].max())
        said = f"{prose(str(role))} ({facts:,} fact{'' if facts == 1 else 's'})"
        rows.append(
            RoleLine(course, drawable(f"{said}\n{_peak_words(course, peak, layers, look_of(measure))}"), peak)
        )
    return rows


def _peak_words(course: Course, peak: int | None, layers: list[int | str], look: MeasureLook) -> str:
    if peak is None:
        return "not measured"
    mean, low, high = (float(ends[peak]) for ends in (course.mean, course.low, course.high))
    interval = "" if np.isnan(low) else f" [{look.number(low)}, {look.number(high)}]"
    return f"peak {look.number(mean)}{interval} at layer {prose(str(layers[peak]))}"


def _legend_inches(lines: list[RoleLine]) -> float:
    texts = [part for line in lines for part in line.label.split("\n")]
    return max(extent(text, LEGEND_SIZE) for text in texts) / 72 + HANDLE_INCHES


def _draw(
    axes: Axes, averages: xr.Dataset, lines: list[RoleLine], about: About, measure: str, width: float
) -> None:
    """Draw lines over the numbers of the layers from 0, which the ticks name."""
    look = look_of(measure)
    x: Float[np.ndarray, " layer"] = np.arange(averages.sizes["layer"], dtype=np.float64)
    axes.axhline(0, color="#888888", linewidth=0.6)
    for line, stroke in zip(lines, strokes(len(lines)), strict=True):
        draw_course(axes, x, line.course, stroke, line.label)
        if line.peak is not None:
            peak = x[line.peak], line.course.mean[line.peak]
            axes.plot(*peak, "o", color=stroke.hue, markersize=9, markerfacecolor="none", zorder=4)
    layer_ticks(axes, averages["layer"].values.tolist())
    axes.set_xlim(-0.5, len(x) - 0.5)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=7))
    axes.tick_params(length=2.5, pad=2)
    if look.ratio:
        in_percent(axes.yaxis)
    words = f"mean {look.words.format(about.measured())}"
    axes.set_ylabel(wrapped(words, 72 * LINES_HEIGHT, AXIS_SIZE), size=AXIS_SIZE)
    axes.set_xlabel(wrapped(layer_axis(about), 72 * width, AXIS_SIZE), size=AXIS_SIZE)
    axes.legend(
        loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, frameon=False, fontsize=LEGEND_SIZE
    )


def _caption(averages: xr.Dataset, about: About) -> tuple[str, ...]:
    bands = f"Bands and brackets: {interval_words(averages)} of the mean, bootstrap over facts"
    return (*about.caption, f"Averaged by token role. {bands}. Rings: peaks")
