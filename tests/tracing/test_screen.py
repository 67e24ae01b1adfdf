"""Screening: what it reports as exact is, it spends no more than it may, and it spends it on the best sites."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import patchpoint as pp
from patchpoint.engine import Batch, Edit, Site, Variant, sweep
from patchpoint.engine.sweep import base_values
from patchpoint.tracing.exchange import Exchange, measured
from patchpoint.tracing.screen import (
    SHARE,
    best_within,
    between_layers,
    first_look,
    round_samples,
    screened,
    site_costs,
    typical_first,
)
from words import tiny_model

IDS, SPAN, LAYERS = (5, 9, 13, 2, 44, 7, 31, 80), (1, 3), 12
DEPTH = {
    "gpt2": {"n_layer": LAYERS},
    "llama": {"num_hidden_layers": LAYERS},
    "gpt_neox": {"num_hidden_layers": LAYERS},
}
NOT_MUCH = 0.2
"""Noise so small that samples agree on where effects are."""
SETTINGS = [(state, direction) for state in ("resid", "mlp", "attn") for direction in ("restore", "corrupt")]


def exchange(
    family="llama", *, state="resid", direction="restore", metric="prob", samples=10, noise=1.0, **more
):
    model = tiny_model(family, **DEPTH[family])
    clean = model.run(Batch((IDS,), (20,), (21,)))
    batch = clean.batch.repeat(samples)
    generator = torch.Generator().manual_seed(5)
    shift = torch.randn(1, SPAN[1] - SPAN[0], model.d_embed, generator=generator)
    added = shift + noise * torch.randn(samples, *shift.shape[1:], generator=generator)
    corrupt = model.run(batch, edits=[Edit(Site(0, "embed", tuple(range(*SPAN))), "add", added)])
    base, source = (corrupt, clean) if direction == "restore" else (model.run(batch), corrupt)
    return Exchange(base, source, SPAN[0], state, 3, metric, **more)


@pytest.mark.parametrize(("state", "direction"), SETTINGS)
@pytest.mark.parametrize("family", DEPTH)
def test_exact_sites_equal_the_exact_sweep(family, state, direction):
    asked = exchange(family, state=state, direction=direction)
    got, want = screened(asked), measured(asked)
    assert got.samples.dims == want.samples.dims
    assert got.samples.shape == want.samples.shape
    assert got.exact.dims == ("token", "layer")
    verified = got.exact.values[SPAN[0] :]
    assert 0 < verified.sum() < verified.size, "nothing or everything was run"
    difference = abs(got.samples - want.samples).values
    assert difference[got.exact.values].max() < 1e-6
    assert np.isfinite(got.samples.values[got.exact.values]).all()
    np.testing.assert_array_equal(got.samples[: SPAN[0]], want.samples[: SPAN[0]])


def runs_of(asked, monkeypatch):
    """What is found, and the (site, sample) pairs that were run for it, in order."""
    pairs = []

    def watched(base, variants, *more, **options):
        for variant in variants:
            (token,), layer = variant.edits[0].site.positions, variant.edits[0].site.layer
            pairs.extend(((token, layer), sample) for sample in variant.prompts)
        return sweep(base, variants, *more, **options)

    monkeypatch.setattr("patchpoint.tracing.screen.sweep", watched)
    return screened(asked), pairs


@pytest.mark.parametrize("family", DEPTH)
def test_the_cost_stays_within_a_fifth_of_the_exact_sweep(family, monkeypatch):
    asked = exchange(family)
    _, pairs = runs_of(asked, monkeypatch)
    assert len(set(pairs)) == len(pairs), "something was run twice"
    by_site = {}
    for site, sample in pairs:
        by_site.setdefault(site, []).append(sample)
    chosen = [Variant(asked.edits(*site), prompts=tuple(some)) for site, some in by_site.items()]
    everything = [Variant(asked.edits(*site)) for site in asked.sites()]
    spent, whole = (sweep(asked.base, variants, plan_only=True).flops for variants in (chosen, everything))
    assert 0.1 < spent / whole <= 0.2


@pytest.mark.parametrize(("state", "direction"), SETTINGS)
def test_site_costs_are_those_of_the_sweeps_plan(state, direction):
    asked = exchange(state=state, direction=direction)
    costs, model = site_costs(asked), asked.base.model
    plan = sweep(asked.base, [Variant(asked.edits(*site)) for site in asked.sites()], plan_only=True)
    assert plan.units == 10 * np.count_nonzero(costs)
    logits = plan.units * 2 * model.d_model * model.d_vocab
    assert 10 * costs.sum() == plan.flops + logits


@pytest.mark.parametrize("family", DEPTH)
def test_samples_run_are_the_most_typical_ones_and_the_others_nan(family, monkeypatch):
    asked = exchange(family)
    found, pairs = runs_of(asked, monkeypatch)
    want = measured(asked).samples.values
    totals = (base_values(asked.source, "prob") - base_values(asked.base, "prob")).numpy()
    order, few = typical_first(totals), round_samples(0.2, 10)
    run = {site: {sample for at, sample in pairs if at == site} for site in asked.sites()}
    for (token, layer), samples in run.items():
        there = set(order[: len(samples)].tolist())
        assert samples == there
        finite = np.flatnonzero(np.isfinite(found.samples[token, layer]))
        assert set(finite.tolist()) == (there or set(order[:few].tolist()))
        some = list(there)
        np.testing.assert_allclose(found.samples[token, layer, some], want[token, layer, some], atol=1e-6)
        assert found.exact[token, layer] == (len(there) == 10)


def test_the_most_typical_samples_come_first():
    assert typical_first(np.array([5.0, 1.0, 2.0, 4.0])).tolist() == [2, 3, 0, 1]
    assert typical_first(np.zeros(3)).tolist() == [0, 1, 2]


@pytest.mark.parametrize("metric", ["prob", "rank", "logit_diff", "logprob"])
@pytest.mark.parametrize("direction", ["restore", "corrupt"])
def test_the_best_sites_bring_the_metric_towards_the_source(direction, metric):
    asked = exchange("gpt2", direction=direction, metric=metric, noise=NOT_MUCH)
    found, want = screened(asked), measured(asked).samples.values[SPAN[0] :].mean(-1)
    before, behind = (base_values(run, metric).numpy().mean() for run in (asked.base, asked.source))
    gains = (want - before) * np.sign(behind - before)
    verified = found.exact.values[SPAN[0] :]
    best = np.argsort(-gains, axis=None)[:5]
    assert verified.ravel()[best].mean() >= 0.6


def test_the_first_look_is_at_evenly_spaced_layers():
    costs = np.ones((3, 30))
    costs[0, -1] = 0
    counts = first_look(costs, 10)
    assert np.flatnonzero(counts[1]).tolist() == [4, 9, 14, 19, 24, 29]
    assert set(counts[1].tolist()) == {0, 2}
    assert counts[0, -1] == 10, "what costs nothing is run at once"
    assert np.flatnonzero(first_look(costs, 1)[1]).tolist() == [9, 29]
    for samples in range(1, 30):
        assert first_look(np.ones((3, 30)), samples).sum() <= 0.4 * SHARE * 90 * samples


def test_between_layers_values_lie_on_straight_lines():
    values = np.full((2, 5, 3), np.nan)
    values[0, 1, :2], values[0, 4, :3] = (1, 10), (4, 40, 7)
    values[1, 0, :2], values[1, 2, :2] = (5, 6), (7, 8)
    counts = np.isfinite(values).sum(-1)
    filled = between_layers(values, counts, np.arange(3))
    np.testing.assert_allclose(filled[0, :, 0], [1, 1, 2, 3, 4])
    np.testing.assert_allclose(filled[0, :, 1], [10, 10, 20, 30, 40])
    np.testing.assert_allclose(filled[1, :, 0], [5, 6, 7, 7, 7])
    np.testing.assert_array_equal(np.isfinite(filled[..., 2]), counts == 3)


def test_going_down_the_list_stops_at_the_budget():
    gains = np.array([[3.0, 9.0, 5.0], [8.0, 1.0, 7.0]])
    counts = np.array([[0, 4, 1], [0, 0, 10]])
    costs = np.array([[1.0, 2.0, 5.0], [3.0, 1.0, 0.5]])
    # Spent already: 8 + 5 + 5. Then (0, 1) 6 x 2, (1, 0) 10 x 3, nothing for (1, 2), (0, 2) 9 x 5, (0, 0) 10.
    for budget, wanted in (
        (29.9, [[0, 4, 1], [0, 0, 10]]),
        (30, [[0, 10, 1], [0, 0, 10]]),
        (60, [[0, 10, 1], [10, 0, 10]]),
        (104, [[0, 10, 1], [10, 0, 10]]),
        (105, [[0, 10, 10], [10, 0, 10]]),
    ):
        np.testing.assert_array_equal(best_within(gains, counts, costs, 10, budget), wanted)


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_few_samples(samples):
    asked = exchange(samples=samples)
    got, want = screened(asked), measured(asked)
    assert 0 < got.exact.sum() < got.exact.size
    assert abs(got.samples - want.samples).values[got.exact.values].max() < 1e-6
    assert np.isfinite(got.samples.mean("sample")).all()


def test_progress_goes_up_to_its_end():
    calls = []
    screened(replace(exchange(), progress=lambda *done: calls.append(done)))
    assert len(calls) > LAYERS
    assert calls == sorted(calls)
    assert calls[-1][0] == calls[-1][1]
    assert len({to_do for _, to_do in calls}) == 1


def test_a_severed_exchange_is_refused():
    with pytest.raises(
        pp.PatchpointError, match="sever='attn' is not offered with method screen; use method exact"
    ):
        screened(exchange(sever="attn"))
