"""Lines that tell each other apart without colour: each has its own dash and marker besides its hue."""

from dataclasses import dataclass
from itertools import cycle
from typing import Self

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

Dash = str | tuple[float, tuple[float, ...]]
# The palette of Okabe and Ito 2008, told apart by colour-blind eyes; its yellow is too light for a line.
HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES: tuple[Dash, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (5, 1.5, 1, 1.5)),
    (0, (1, 1.2)),
    (0, (8, 1.5, 1, 1.5, 1, 1.5)),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
MARKS = 12
BARRED = 15


@dataclass(frozen=True)
class Stroke:
    """Hue, dash and marker of a line; `lag` staggers the markers of lines that lie on each other."""

    hue: str
    dash: Dash
    marker: str
    lag: int


@dataclass(frozen=True, eq=False)
class Course:
    """A line's numbers over x, each of shape (point,): middle and interval, NaN where not known."""

    mean: Float[np.ndarray, " point"]
    low: Float[np.ndarray, " point"]
    high: Float[np.ndarray, " point"]

    def at(self, points: Int[np.ndarray, " chosen"]) -> Self:
        """The numbers at these points, in this order."""
        return type(self)(self.mean[points], self.low[points], self.high[points])


def strokes(number: int) -> list[Stroke]:
    """That many different strokes: the cycles have lengths without a common divisor."""
    looks = zip(range(number), cycle(HUES), cycle(DASHES), cycle(MARKERS), strict=False)
    return [Stroke(hue, dash, marker, lag) for lag, hue, dash, marker in looks]


def draw_course(
    axes: Axes, x: Float[np.ndarray, " point"], course: Course, stroke: Stroke, label: str
) -> Line2D:
    """Draw a line with its interval as a band, and as bars too where points are few or stand alone."""
    few = len(x) <= BARRED
    every = 1 if few else -(-len(x) // MARKS)
    (line,) = axes.plot(
        x,
        course.mean,
        color=stroke.hue,
        linestyle=stroke.dash,
        marker=stroke.marker,
        markevery=(stroke.lag % every, every),
        markersize=4,
        linewidth=1.4,
        label=label,
    )
    axes.fill_between(x, course.low, course.high, color=stroke.hue, alpha=0.15, linewidth=0)
    if few:
        axes.vlines(x, course.low, course.high, color=stroke.hue, linewidth=1.0, alpha=0.8)
    return line
