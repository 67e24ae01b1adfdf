"""Histograms of a screening hold the numbers that decided it."""

from math import log

import numpy as np
import pytest
from matplotlib.patches import Polygon, Rectangle

from figure_parts import caption_of, outside
from patchpoint.errors import InvalidArgument
from patchpoint.plots import save
from patchpoint.plots.screening import BINS, screening_figure
from patchpoint.tasks.screening import Report, Scores


def made(n=200, ratio=2.0, **changes):
    random = np.random.default_rng(0)
    logit_diff = random.normal(1.5, 1.5, n)
    prob = random.uniform(0, 1, n)
    scores = Scores(prob, prob / np.exp(logit_diff), logit_diff, (prob < 0.4).astype(np.int64))
    accepted = np.ones(n, dtype=bool) if ratio is None else scores.accepted(ratio)
    fields = {
        "task": "ioi",
        "model": "smollm2-135m",
        "corruption": "abc",
        "seed": 3,
        "ratio": ratio,
        "fillers": (),
        "dropped": {},
        "examples": {},
        "texts": ("x",) * n,
        "groups": ("ABBA",) * n,
        "scores": scores,
        "accepted": accepted,
    }
    return Report(**(fields | changes))


def of(n, **columns):
    """A report of these scores alone."""
    zeros = {"prob": np.zeros(n), "prob_incorrect": np.zeros(n), "logit_diff": np.zeros(n)}
    return made(n, scores=Scores(**(zeros | columns), rank=np.zeros(n, dtype=np.int64)))


def filled(axes):
    """Left edge, width and height of each bar."""
    bars = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    return np.array([(bar.get_x(), bar.get_width(), bar.get_height()) for bar in bars])


def outlined(axes):
    """Height of each step."""
    (outline,) = [patch for patch in axes.patches if isinstance(patch, Polygon)]
    return outline.get_xy()[1:-1:2, 1]


def lines(axes):
    return [float(line.get_xdata()[0]) for line in axes.get_lines()]


def test_bars_are_the_accepted_and_outlines_all():
    report = made()
    figure = screening_figure(report)
    columns = (report.scores.prob, report.scores.logit_diff)
    for axes, values in zip(figure.axes, columns, strict=True):
        bars = filled(axes)
        edges = np.append(bars[:, 0], bars[-1, 0] + bars[-1, 1])
        assert len(bars) == BINS
        np.testing.assert_array_equal(bars[:, 2], np.histogram(values[report.accepted], edges)[0])
        np.testing.assert_array_equal(outlined(axes), np.histogram(values, edges)[0])
        assert outlined(axes).sum() == 200
        assert 0 < bars[:, 2].sum() == report.accepted.sum() < 200
    left, right = figure.axes
    assert left.get_xlim() == (0.0, 1.0)
    assert right.get_xlim() == (columns[1].min(), columns[1].max())
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        f"accepted ({report.accepted.sum()})",
        "all candidates (200)",
    ]


def test_the_ratio_is_a_line_and_the_caption_says_how():
    report = made(ratio=3.0)
    figure = screening_figure(report)
    assert [lines(axes) for axes in figure.axes] == [[], [pytest.approx(log(3))]]
    caption = caption_of(figure)
    for part in (
        "smollm2-135m, task ioi, corruption abc, seed 3",
        f"{report.accepted.sum()} of 200 candidates accepted ({report.acceptance:.1%})",
        "more than 3 times as likely",
        f"most likely token correct in {report.accuracy:.1%}",
        f"mean logit difference {report.mean_logit_diff:.3g}",
    ):
        assert part in caption
    assert outside(figure) == []


def test_without_screening_there_is_no_line():
    figure = screening_figure(made(ratio=None))
    assert [lines(axes) for axes in figure.axes] == [[], []]
    assert "Not screened" in caption_of(figure)


def test_the_line_is_seen_where_all_are_beyond_it():
    figure = screening_figure(of(3, logit_diff=np.array([5.0, 6.0, 7.0])))
    assert figure.axes[1].get_xlim() == (pytest.approx(log(2)), 7.0)


def test_equal_numbers_and_rounding_beyond_one_are_drawn():
    figure = screening_figure(of(4, prob=np.full(4, 1 + 1e-7), logit_diff=np.full(4, log(2))))
    assert [outlined(axes).sum() for axes in figure.axes] == [4, 4]
    assert outside(figure) == []


def test_what_is_no_number_is_left_out():
    figure = screening_figure(of(3, logit_diff=np.array([np.inf, np.nan, 1.0])))
    assert [outlined(axes).sum() for axes in figure.axes] == [1, 1]


def test_long_names_lie_on_the_page_and_files_are_the_same_twice(tmp_path):
    report = made(task="custom template=" + "$x$ " * 60, model="m" * 90)
    first, second = (
        save(screening_figure(report), tmp_path / f"{name}.svg").read_bytes() for name in ("one", "two")
    )
    assert first == second
    assert outside(screening_figure(report)) == []


def test_nothing_scored_is_refused():
    with pytest.raises(InvalidArgument, match="no candidate of task ioi was scored"):
        screening_figure(of(0))
