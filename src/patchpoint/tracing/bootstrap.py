"""Confidence intervals of ratios of sums over facts: the percentile bootstrap. Efron and Tibshirani 1993, chapter 13.

Facts are drawn with replacement, each with all it holds. Sums over a resample are a product of how often it holds
each fact with the facts' own sums, so that no resample is ever written out.
"""

import numpy as np
from jaxtyping import Float

RESAMPLES, CONFIDENCE, SEED = 2000, 0.95, 0


def interval_over_facts(
    sums: Float[np.ndarray, "fact place"],
    counts: Float[np.ndarray, "fact place"],
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = SEED,
) -> tuple[Float[np.ndarray, " place"], Float[np.ndarray, " place"]]:
    """The central `confidence` of the resamples' sum over facts of `sums` / sum over facts of `counts`.

    Resamples in which a place has no count are left out of its interval. NaN where fewer than two facts have a
    count, as one says nothing about the spread.
    """
    ratios = ratio(*(_drawn(len(sums), resamples, seed) @ part for part in (sums, counts)))
    ends = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    found = np.full((2, ratios.shape[1]), np.nan)
    several = (counts > 0).sum(axis=0) > 1
    whole = several & ~np.isnan(ratios).any(axis=0)
    # Quantiles that look for NaN go column by column in Python.
    found[:, whole] = np.quantile(ratios[:, whole], ends, axis=0)
    found[:, several & ~whole] = np.nanquantile(ratios[:, several & ~whole], ends, axis=0)
    return found[0], found[1]


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Element by element; NaN over 0."""
    found: np.ndarray = np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
    return found


def _drawn(n_facts: int, resamples: int, seed: int) -> Float[np.ndarray, "resample fact"]:
    """How often each resample holds each fact."""
    generator = np.random.default_rng(seed % 2**64)
    return generator.multinomial(n_facts, np.full(n_facts, 1 / n_facts), size=resamples).astype(np.float64)
