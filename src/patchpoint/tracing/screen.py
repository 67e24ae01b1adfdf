"""The heatmap's top sites measured exactly at a fifth of the exact cost.

Effects are smooth from layer to layer, and a few noise samples tell roughly where they are large. So a few layers
are measured first, in a fifth of the samples, and the layers between them taken to lie on straight lines. Then
come three rounds, each going down the list of sites by what is known of them so far until its part of the budget
is spent: a fifth of the samples, half of them, all of them. This is sequential halving (Karnin et al. 2013,
"Almost optimal exploration in multi-armed bandits") with arms that cost more the lower their layer and the earlier
their token. Samples are taken up from the most typical one on, which the total effects tell at no cost.

Gradients take no part in it: the backward pass would take about a fifth of the budget and, alone or with the first
look, tells less of where effects are large than the first look by itself.
"""

from dataclasses import dataclass
from math import ceil

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from patchpoint.engine import Variant, sweep
from patchpoint.engine.cost import chunk_flops
from patchpoint.engine.plan import Group, units_of
from patchpoint.engine.sweep import Progress, base_values

from .attribution import check_offered
from .exchange import Estimate, Exchange, with_untouched

SHARE = 0.17
"""Of the exact sweep's operations, spent at most. Small sweeps take longer per operation: about a fifth in seconds."""
ROUNDS = ((0.2, 0.4), (0.5, 0.7), (1.0, 1.0))
"""Per round the share of samples that the best sites then have, and of the budget that is spent by then."""
COARSE_LAYERS, FIRST_LOOK = 6, 0.3
"""The first look: layers of each token, about, and the most of the budget that may go into it."""
LEAST_SAMPLES = 2
"""In any round: a single sample can be a wholly untypical one."""

Sites = Float[np.ndarray, "token layer"]
Counts = Int[np.ndarray, "token layer"]
Samples = Float[np.ndarray, "token layer sample"]
Order = Int[np.ndarray, " sample"]


@dataclass(frozen=True, eq=False)
class Seen:
    """What a screening measured, on tokens from `asked.first` on: the metric, NaN where a sample was not run."""

    asked: Exchange
    values: Samples
    counts: Counts
    """How many samples were run at each site."""
    order: Order
    """In which order samples are run."""
    untouched: Float[np.ndarray, " sample"]
    """The base's metric."""

    @property
    def estimate(self) -> Estimate:
        """Values with the samples that lie between layers, and which of them are of all samples."""
        filled = between_layers(self.values, self.counts, self.order)
        samples = with_untouched(filled, self.untouched, self.asked.first)
        exact = xr.ones_like(samples.isel(sample=0, drop=True), dtype=bool)
        exact[self.asked.first :] = self.counts == len(self.order)
        return Estimate(samples, exact)


def screened(asked: Exchange) -> Estimate:
    """The metric with states exchanged, in all samples where that matters most, in some of them elsewhere.

    What matters most brings the base's metric farthest towards the source's. Samples that were not run are NaN;
    where none were, the first few lie between those of the nearest layers that have some.
    `exact` where all were run, equal to `measured` to rounding. Takes at most SHARE of the exact sweep's
    operations, whole rows of logits included (more where a first look at the last layer alone does).
    `asked.progress` is called with operations done and the most there can be.
    Raises InvalidArgument for a severed exchange.
    """
    return seen_in(asked).estimate


def seen_in(asked: Exchange) -> Seen:
    """The measurements of `screened` and how many there are."""
    check_offered(asked, "screen")
    untouched = base_values(asked.base, asked.metric).numpy()
    totals = base_values(asked.source, asked.metric).numpy() - untouched
    order, costs, n_samples = typical_first(totals), site_costs(asked), len(totals)
    budget, counts = SHARE * n_samples * costs.sum(), first_look(costs, n_samples)
    meter = _Meter(asked.progress, costs, ceil(budget))
    values = np.full((*costs.shape, n_samples), np.nan, dtype=np.float32)
    _measure(asked, values, order, np.zeros_like(counts), counts, meter)
    for of_samples, of_budget in ROUNDS:
        gains = np.nanmean(between_layers(values, counts, order) - untouched, axis=-1)
        gains, n_wanted = -gains if totals.mean() < 0 else gains, round_samples(of_samples, n_samples)
        wanted = best_within(gains, counts, costs, n_wanted, of_budget * budget)
        _measure(asked, values, order, counts, wanted, meter)
        counts = wanted
    meter.finished()
    return Seen(asked, values, counts, order, untouched)


def site_costs(asked: Exchange) -> Sites:
    """Floating-point operations of each exchange in one sample, tokens from `asked.first` on.

    Those of the sweep's plan, and of one row of logits; 0 where an exchange cannot reach the final token.
    """
    base, model = asked.base, asked.base.model
    variants = [Variant(asked.edits(token, layer), prompts=(0,)) for token, layer in asked.sites()]
    logits, costs = 2 * model.d_model * model.d_vocab, np.zeros(len(variants))
    for unit in units_of(base, variants):
        alone = Group(unit.n_tokens, unit.first, (unit,), 0, 0)
        costs[unit.variant] = sum(chunk_flops(base, [alone])) + logits
    return costs.reshape(-1, asked.n_layers)


def round_samples(share: float, n_samples: int) -> int:
    """How many samples a round with this share of them gives its sites."""
    return min(n_samples, max(LEAST_SAMPLES, ceil(share * n_samples)))


def first_look(costs: Sites, n_samples: int) -> Counts:
    """Samples per site of the first look: some at evenly spaced layers from the last one down, all where free."""
    n_layers, few = costs.shape[1], round_samples(ROUNDS[0][0], n_samples)
    stride = max(1, n_layers // COARSE_LAYERS, ceil(few / (FIRST_LOOK * SHARE * n_samples)))
    counts = np.where(costs == 0, n_samples, 0)
    coarse = counts[:, ::-1][:, ::stride]
    coarse[:] = np.maximum(coarse, few)
    return counts


def typical_first(totals: Float[np.ndarray, " sample"]) -> Order:
    """Samples by how near their total effect is to the mean of all, the nearest first."""
    return np.argsort(np.abs(totals - totals.mean()), kind="stable")


def between_layers(values: Samples, counts: Counts, order: Order) -> Samples:
    """Values, with as many samples at sites without any as the site with fewest has, in the order of samples.

    They lie on straight lines between those of the token's other layers.
    """
    filled, layers = values.copy(), np.arange(values.shape[1])
    for token, seen in zip(filled, counts > 0, strict=True):
        for sample in order[: counts[counts > 0].min()]:
            token[~seen, sample] = np.interp(layers[~seen], layers[seen], token[seen, sample])
    return filled


def best_within(gains: Sites, counts: Counts, costs: Sites, n_wanted: int, budget: float) -> Counts:
    """Samples per site once the best sites have `n_wanted`, as far down as the whole stays within the budget."""
    wanted, spent = counts.copy(), float((counts * costs).sum())
    for site in np.argsort(-gains, axis=None, kind="stable"):
        token, layer = divmod(int(site), gains.shape[1])
        more = max(0, n_wanted - int(counts[token, layer]))
        spent += more * float(costs[token, layer])
        if spent > budget:
            break
        wanted[token, layer] += more
    return wanted


@dataclass(frozen=True, eq=False)
class _Meter:
    """Progress of single rounds told as that of the whole, which takes at most `most` operations."""

    progress: Progress | None
    costs: Sites
    most: int

    def between(self, have: Counts, wanted: Counts) -> Progress | None:
        """What to tell a round that starts from some counts and ends with others."""
        told = self.progress
        if told is None:
            return None
        before, behind = (float((counts * self.costs).sum()) for counts in (have, wanted))
        return lambda done, to_do: told(
            min(int(before + (behind - before) * done / to_do), self.most), self.most
        )

    def finished(self) -> None:
        """Tell that no more is to do."""
        if self.progress is not None:
            self.progress(self.most, self.most)


def _measure(
    asked: Exchange,
    values: Samples,
    order: Order,
    have: Counts,
    wanted: Counts,
    meter: _Meter,
) -> None:
    """Fill in the samples of each site that are wanted and not there yet."""
    new = [(int(token), int(layer)) for token, layer in np.argwhere(wanted > have)]
    if not new:
        return
    samples = [[int(sample) for sample in order[have[site] : wanted[site]]] for site in new]
    variants = [
        Variant(asked.edits(asked.first + token, layer), prompts=tuple(some))
        for (token, layer), some in zip(new, samples, strict=True)
    ]
    progress = meter.between(have, wanted)
    swept = sweep(asked.base, variants, asked.metric, memory_gib=asked.memory_gib, progress=progress).values
    for site, some, row in zip(new, samples, swept, strict=True):
        values[site][some] = row[some]
