"""Rank correlation and recall against examples worked out by hand."""

import numpy as np
import pytest

from patchpoint.errors import InvalidArgument
from patchpoint.tracing.agreement import Agreement, agreement, interval, mean_agreement


def heatmap(*values, layers=2):
    return np.array(values, dtype=float).reshape(-1, layers)


def test_rank_correlation_of_five_swapped_ranks():
    """Ranks 1 2 3 4 5 6 against 2 1 4 3 6 5: squared differences 6, 1 - 6 * 6 / (6 * 35)."""
    found = agreement(heatmap(1, 2, 3, 4, 5, 6), heatmap(20, 10, 40, 30, 60, 50))
    assert found.rank_correlation == pytest.approx(1 - 6 * 6 / (6 * 35))
    assert found.sites == 6


def test_ties_take_their_average_rank():
    """Ranks 0.5 0.5 2 3 against 0 1 2 3: covariance 4.5, variances 4.5 and 5."""
    found = agreement(heatmap(1, 1, 5, 9), heatmap(1, 2, 3, 4))
    assert found.rank_correlation == pytest.approx(4.5 / np.sqrt(4.5 * 5))


def test_rank_correlation_ignores_scale_and_turns_with_the_sign():
    exact = heatmap(*np.random.default_rng(0).normal(size=40))
    assert agreement(np.exp(exact), exact).rank_correlation == pytest.approx(1)
    assert agreement(-exact, exact).rank_correlation == pytest.approx(-1)
    assert np.isnan(agreement(np.ones_like(exact), exact).rank_correlation)


@pytest.mark.parametrize(("top", "recall"), [(1, 0), (2, 1), (3, 2 / 3), (4, 1), (6, 1), (10, 1)])
def test_recall_of_the_top(top, recall):
    """From the largest down the exact sites are 5 4 3 2 1 0, the estimate's 4 5 2 3 1 0."""
    exact = heatmap(0, 1, 2, 3, 4, 5)
    estimate = heatmap(0, 0.5, 3, 2.5, 9, 8)
    assert agreement(estimate, exact, top=top).recall == pytest.approx(recall)


def test_tokens_before_the_first_are_left_out():
    exact, estimate = heatmap(9, 9, 1, 2, 3, 4), heatmap(-9, -9, 1, 2, 3, 4)
    found = agreement(estimate, exact, first=1, top=2)
    assert found == Agreement(rank_correlation=pytest.approx(1), recall=1, sites=4)
    assert agreement(estimate, exact, top=2).recall == 0


def test_largest_values_are_the_top_and_not_the_largest_magnitudes():
    assert agreement(heatmap(-9, 0, 1, 2), heatmap(0, -9, 1, 2), top=2).recall == 1


@pytest.mark.parametrize(
    ("estimate", "exact", "more", "message"),
    [
        (heatmap(1, 2), heatmap(1, 2, 3, 4), {}, r"shape \(1, 2\), the exact heatmap \(2, 2\)"),
        (heatmap(1, np.nan), heatmap(1, 2), {}, "NaN"),
        (heatmap(1, 2), heatmap(1, 2), {"first": 1}, "no sites from token 1 on"),
        (heatmap(1, 2), heatmap(1, 2), {"top": 0}, "top must be at least 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(estimate, exact, more, message):
    with pytest.raises(InvalidArgument, match=message):
        agreement(estimate, exact, **more)


def test_means_over_facts_and_their_intervals():
    found = mean_agreement(
        [Agreement(0.5, 0.9, 30), Agreement(float("nan"), 0.7, 30), Agreement(0.7, 0.8, 60)]
    )
    assert found.facts == 3
    assert found.rank_correlation.mean == pytest.approx(0.6)
    assert found.recall.mean == pytest.approx(0.8)
    assert 0.7 - 1e-9 <= found.recall.low < 0.8 < found.recall.high <= 0.9 + 1e-9
    with pytest.raises(InvalidArgument, match="one per fact"):
        mean_agreement([])


def test_the_interval_has_the_width_of_the_standard_error():
    values = np.random.default_rng(1).normal(size=400)
    found = interval(values.tolist())
    error = values.std() / 20
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.3 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.3 * error)
    assert np.isnan(interval([float("nan")]).mean)
