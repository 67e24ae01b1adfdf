"""How far an estimated heatmap agrees with the exact one: rank correlation, and recall of the top sites."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from patchpoint.errors import InvalidArgument

from .bootstrap import interval_over_facts

TOP = 10


@dataclass(frozen=True)
class Agreement:
    """An estimated heatmap against the exact one, over `sites` sites.

    `rank_correlation`: Spearman's, in [-1, 1], tied values at their average rank; NaN where one of the two is
    the same everywhere. `recall`: share of the exact top sites that are among the estimate's as many.
    """

    rank_correlation: float
    recall: float
    sites: int


@dataclass(frozen=True)
class Interval:
    """A mean over facts and its percentile bootstrap interval, facts resampled with replacement."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class MeanAgreement:
    """Agreement over several facts; facts whose rank correlation is NaN are left out of its mean."""

    rank_correlation: Interval
    recall: Interval
    facts: int


def agreement(
    estimate: Float[np.ndarray, "token layer"],
    exact: Float[np.ndarray, "token layer"],
    *,
    first: int = 0,
    top: int = TOP,
) -> Agreement:
    """Agreement of two heatmaps, in any common unit, over the tokens from `first` on.

    Top sites are those of largest value: turn the sign of both where small ones count. Of equal values the
    earlier token, then the lower layer, comes first. With fewer than `top` sites all of them are the top.
    Raises InvalidArgument for arrays of different shapes, without sites or with NaN, and for `top` below 1.
    """
    ours, theirs = np.asarray(estimate, dtype=np.float64), np.asarray(exact, dtype=np.float64)
    if ours.shape != theirs.shape or ours.ndim != 2:
        raise InvalidArgument(
            f"the estimate has shape {ours.shape}, the exact heatmap {theirs.shape}; give two of (token, layer)"
        )
    ours, theirs = ours[first:].ravel(), theirs[first:].ravel()
    if not ours.size or first < 0:
        raise InvalidArgument(f"no sites from token {first} on; the heatmaps have {len(exact)} tokens")
    if top < 1:
        raise InvalidArgument(f"top must be at least 1 site, got {top}")
    if np.isnan(ours).any() or np.isnan(theirs).any():
        raise InvalidArgument("a heatmap has NaN at some sites; compare finite values only")
    wanted = set(_top(theirs, top))
    return Agreement(
        rank_correlation=_spearman(ours, theirs),
        recall=len(wanted.intersection(_top(ours, top))) / len(wanted),
        sites=ours.size,
    )


def mean_agreement(found: Sequence[Agreement]) -> MeanAgreement:
    """Means over facts with their bootstrap intervals. InvalidArgument for none."""
    if not found:
        raise InvalidArgument("no agreements to average; give one per fact")
    return MeanAgreement(
        rank_correlation=interval([one.rank_correlation for one in found]),
        recall=interval([one.recall for one in found]),
        facts=len(found),
    )


def interval(values: Sequence[float]) -> Interval:
    """Mean and percentile bootstrap interval of one value per fact, NaN left out.

    The interval is NaN for a single value, the mean too for none.
    """
    kept = np.asarray(values, dtype=np.float64)
    kept = kept[~np.isnan(kept)][:, None]
    if not kept.size:
        return Interval(np.nan, np.nan, np.nan)
    low, high = interval_over_facts(kept, np.ones_like(kept))
    return Interval(float(kept.mean()), float(low[0]), float(high[0]))


def _top(values: Float[np.ndarray, " site"], top: int) -> list[int]:
    return [int(site) for site in np.argsort(-values, kind="stable")[:top]]


def _spearman(ours: Float[np.ndarray, " site"], theirs: Float[np.ndarray, " site"]) -> float:
    a, b = (ranks - ranks.mean() for ranks in (_average_ranks(ours), _average_ranks(theirs)))
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale else float("nan")


def _average_ranks(values: Float[np.ndarray, " site"]) -> Float[np.ndarray, " site"]:
    """Ranks from 0; equal values share the mean of the ranks they take."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    before = np.cumsum(counts) - counts
    return np.asarray((before + (counts - 1) / 2)[which], dtype=np.float64)
