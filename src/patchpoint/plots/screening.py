"""How a model did on the candidates of a task: histograms of what screening decides by."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from patchpoint.errors import InvalidArgument
from patchpoint.tasks.screening import Report

from .cells import AXIS_SIZE, new_figure, plain_settings, settle
from .labels import prose
from .lettering import caption_inches, caption_text, wrapped, write_caption
from .strokes import HUES

BINS = 20
WIDTH, HEIGHT = 7.5, 3.0
PANEL_WIDTH = 3.2
LEGEND_SIZE = 8.0
ALL_HUE = "#444444"
DIFFERENCE = "logit difference, correct - incorrect"


def screening_figure(report: Report) -> Figure:
    """Histograms of p(correct) and of the logit difference of all candidates, the accepted ones filled.

    Counts in BINS equal bins: of 0 to 1, and of the range of the logit differences. Where there was a screening,
    a dashed line stands at the logit difference that its ratio asks for, the natural logarithm. Raises
    InvalidArgument where no candidate reached the model.
    """
    known = np.isfinite(report.scores.prob) & np.isfinite(report.scores.logit_diff)
    if not known.any():
        raise InvalidArgument(
            f"no candidate of task {report.task} was scored, so there is nothing to draw; its report says why"
        )
    caption = caption_text(_caption(report), 72 * (WIDTH - 0.2))
    marked = [] if report.ratio is None else [math.log(report.ratio)]
    prob, logit_diff = report.scores.prob[known].clip(0, 1), report.scores.logit_diff[known]
    accepted = report.accepted[known]
    with plain_settings():
        figure = new_figure(WIDTH, HEIGHT + caption_inches(caption))
        left, right = figure.subplots(1, 2)
        _histogram(left, prob, accepted, (0.0, 1.0), "p(correct answer)")
        _histogram(right, logit_diff, accepted, _ends([*logit_diff, *marked]), DIFFERENCE)
        for place in marked:
            right.axvline(place, color="#444444", linewidth=0.9, linestyle=(0, (2, 2)))
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=2, frameon=False, fontsize=LEGEND_SIZE)
        write_caption(figure, caption)
        settle(figure)
    return figure


def _histogram(
    axes: Axes,
    values: Float[np.ndarray, " candidate"],
    accepted: Bool[np.ndarray, " candidate"],
    ends: tuple[float, float],
    title: str,
) -> None:
    edges = np.linspace(*ends, BINS + 1).tolist()
    axes.hist(values[accepted], edges, color=HUES[0], label=f"accepted ({accepted.sum():,})")
    axes.hist(
        values,
        edges,
        histtype="step",
        color=ALL_HUE,
        linewidth=1.0,
        label=f"all candidates ({len(values):,})",
    )
    axes.set_xlim(*ends)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.set_xlabel(wrapped(title, 72 * PANEL_WIDTH, AXIS_SIZE), size=AXIS_SIZE)
    axes.set_ylabel("prompts", size=AXIS_SIZE)
    axes.tick_params(length=2.5, pad=2)


def _ends(values: Sequence[float]) -> tuple[float, float]:
    """The range of the values, with room where they are all the same."""
    low, high = float(min(values)), float(max(values))
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _caption(report: Report) -> tuple[str, str, str]:
    """Model, task and corruption; what was accepted and by which rule; how the model did on all."""
    accepted, seen, ratio = int(report.accepted.sum()), report.n_candidates, report.ratio
    rule = "Not screened: every candidate is accepted"
    if ratio is not None:
        rule = (
            f"Accepted: the most likely token is correct, and more than {ratio:g} times as likely as the incorrect "
            f"answer (dashed: ln {ratio:g})"
        )
    return (
        f"{prose(report.model)}, task {prose(report.task)}, corruption {prose(report.corruption)}, "
        f"seed {report.seed}: {accepted:,} of {seen:,} candidate{'' if seen == 1 else 's'} accepted "
        f"({report.acceptance:.1%})",
        rule,
        f"All candidates: most likely token correct in {report.accuracy:.1%}, mean logit difference "
        f"{report.mean_logit_diff:.3g}",
    )
