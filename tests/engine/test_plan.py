"""What a sweep says before, while and after it runs: plan, progress, what each edit did."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

import patchpoint as pp
from patchpoint.engine import Batch, chunk, packed, prompt_tiles
from patchpoint.engine.row_edits import RowEdit
from words import tiny_model

PROMPTS = ((5, 9, 13, 2, 44, 7, 31, 80), (11, 3, 60, 8, 21), (70, 71, 72, 73, 74, 75, 76, 77), (4, 6, 90))
DONORS = ((6, 9, 14, 2, 44, 8, 31, 80), (12, 3, 61, 8, 22), (70, 31, 72, 3, 74, 75, 7, 77), (4, 7, 91))


def setting(family):
    model = tiny_model(family)
    base, donor = model.run(Batch(PROMPTS, (1, 2, 3, 4), (5, 6, 7, 8))), model.run(Batch(DONORS))
    variants = [
        pp.Edit(pp.Site(k, c, p), "replace", donor)
        for k in range(3)
        for c in ("z", "mlp_out", "resid_post", "k")
        for p in (None, 1, -1)
    ]
    return base, donor, variants


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_planned_operations_are_those_done(family):
    base, _, variants = setting(family)
    plan = pp.sweep(base, variants, "logit_diff", plan_only=True)
    with FlopCounterMode(display=False) as counted:
        pp.sweep(base, variants, "logit_diff")
    # Counted, not planned: answers' logits; the base's queries. Planned, not counted: masked pairs.
    assert plan.flops == pytest.approx(counted.get_total_flops(), rel=0.15)
    assert plan.variants == len(variants)
    assert 0 < plan.units < len(variants) * len(PROMPTS), "edits that reach no final token cost nothing"


def test_a_plan_follows_the_budget_and_does_nothing(monkeypatch):
    base, _, variants = setting("llama")
    monkeypatch.setattr(chunk, "block_step", None)
    whole = pp.sweep(base, variants, plan_only=True)
    small = pp.sweep(base, variants, plan_only=True, memory_gib=1e-6)
    assert whole.chunks == 1
    assert small.chunks == small.units == whole.units
    assert small.flops == whole.flops
    assert whole.gib > small.gib > 0
    assert whole.seconds > 0
    assert f"{whole.units} units in 1 chunks" in str(whole)


def test_progress_counts_the_planned_operations():
    base, _, variants = setting("gpt2")
    calls: list[tuple[int, int]] = []
    pp.sweep(base, variants, memory_gib=1e-6, progress=lambda done, total: calls.append((done, total)))
    plan = pp.sweep(base, variants, plan_only=True, memory_gib=1e-6)
    assert len(calls) == plan.chunks * base.model.n_layers
    assert {total for _, total in calls} == {plan.flops}
    done = [d for d, _ in calls]
    assert done == sorted(done)
    assert done[-1] == plan.flops


def test_the_same_chunks_give_the_same_bits_and_other_chunks_the_same_numbers():
    base, _, variants = setting("llama")
    first = pp.sweep(base, variants, "logit_diff", memory_gib=1e-6)
    np.testing.assert_array_equal(pp.sweep(base, variants, "logit_diff", memory_gib=1e-6), first)
    np.testing.assert_allclose(pp.sweep(base, variants, "logit_diff"), first, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_tiles_and_budgets_give_the_same_numbers(data):
    base, _, variants = setting("mistral")
    chosen = data.draw(st.lists(st.sampled_from(range(len(variants))), min_size=1, max_size=12))
    listed = [variants[i] for i in chosen]
    whole = pp.sweep(base, listed, "logit_diff")
    rows, budget = data.draw(st.integers(1, 40)), data.draw(st.sampled_from([1e-6, None]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prompt_tiles, "CPU_TILE_ROWS", rows)
        np.testing.assert_allclose(pp.sweep(base, listed, "logit_diff", memory_gib=budget), whole, atol=1e-5)


def test_each_variant_says_what_its_edit_did():
    base, donor, _ = setting("llama")
    site = pp.Site(1, "mlp_out", -1)
    listed = [
        pp.Edit(site, "replace", donor),
        pp.Edit(site, "replace", base),
        pp.Edit(site, "add", 0.25),
        pp.Edit(pp.Site(2, "mlp_out", 0), "add", 0.25),
        [],
    ]
    got = pp.sweep(base, listed, "logit")["largest_change"].values
    pairs = zip(base.cache[site], donor.cache[site], strict=True)
    assert got[0] == pytest.approx(max(float((a - b).abs().max()) for a, b in pairs), rel=1e-5)
    assert got[1] == 0.0, "an edit to itself takes place and changes nothing"
    assert got[2] == pytest.approx(0.25, abs=1e-6)
    assert np.isnan(got[3:]).all(), "what cannot reach a final token is not made"


@pytest.mark.parametrize("stage", ["z", "attn_out", "mlp_out", "resid_post", "q", "final"])
def test_r11_an_edit_that_never_happens_is_an_error(monkeypatch, stage):
    base, _, _ = setting("gpt2")
    apply = RowEdit.apply

    def skipping(self, component, state_start, n_rows, tile_start):
        if not (self.op == "scale" and stage in seen):
            apply(self, component, state_start, n_rows, tile_start)

    seen = {stage}
    edit = pp.Edit(pp.Site(-1 if stage == "final" else 1, stage), "scale", 0.0)
    pp.sweep(base, [edit], "logit")
    monkeypatch.setattr(RowEdit, "apply", skipping)
    with pytest.raises(pp.PatchpointError, match="1 of 1 variants were not made as asked"):
        pp.sweep(base, [edit], "logit")
    if stage != "final":
        with pytest.raises(pp.PatchpointError, match="edited tokens of this run only"):
            base.model.run(base.batch, edits=[edit])


def test_r11_a_block_that_forgets_to_stop_is_an_error(monkeypatch):
    base, _, _ = setting("llama")
    whole = packed.after_mlp
    monkeypatch.setattr(
        packed, "after_mlp", lambda resid, mlp_out, visit: whole(resid, mlp_out, packed_nowhere())
    )
    with pytest.raises(pp.PatchpointError, match="were not made as asked"):
        pp.sweep(
            base, [[pp.Edit(pp.Site(0, "z", 0), "scale", 0.5), pp.Edit(pp.Site(1, "resid_post"), "add", 1.0)]]
        )


def packed_nowhere():
    from patchpoint.engine.visit import Visit

    return Visit(frozenset(), lambda component, rows, start: None)


@pytest.mark.parametrize("family", ["llama", "gemma2", "opt"])
def test_a_metric_of_ones_own_reads_the_final_logits(family):
    base, _, variants = setting(family)
    correct, incorrect = torch.tensor([1, 2, 3, 4]), torch.tensor([5, 6, 7, 8])

    def mine(logits, prompts):
        rows = torch.arange(len(logits))
        return logits[rows, correct[prompts]] - logits[rows, incorrect[prompts]]

    np.testing.assert_allclose(
        pp.sweep(base, variants, mine), pp.sweep(base, variants, "logit_diff"), atol=1e-5
    )
    np.testing.assert_allclose(
        pp.sweep(base, variants, lambda logits, prompts: logits[:, 3]).values[0],
        pp.sweep(base, variants[:1], lambda logits, prompts: logits[:, 3]).values[0],
        atol=1e-5,
    )


@pytest.mark.parametrize("wrong", [lambda logits, prompts: logits, lambda logits, prompts: 1.0])
def test_a_metric_that_returns_something_else_is_refused(wrong):
    base, _, variants = setting("gpt2")
    with pytest.raises(pp.PatchpointError, match="a metric returns one number per row"):
        pp.sweep(base, variants, wrong)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_kl_rank_and_accuracy_by_their_definitions(family):
    base, _, variants = setting(family)
    runs = [base.model.run(base.batch, edits=[edit]) for edit in variants]
    logp = base.logits.log_softmax(-1)
    correct = torch.tensor(base.batch.correct)
    kl = torch.stack([(logp.exp() * (logp - run.logits.log_softmax(-1))).sum(-1) for run in runs])
    answers = [run.logits.gather(1, correct[:, None]) for run in runs]
    rank = torch.stack([(run.logits > a).sum(-1) for run, a in zip(runs, answers, strict=True)])
    np.testing.assert_allclose(pp.sweep(base, variants, "kl"), kl, atol=1e-5)
    np.testing.assert_array_equal(pp.sweep(base, variants, "rank"), rank)
    best = torch.stack([run.logits.argmax(-1) == correct for run in runs])
    np.testing.assert_array_equal(pp.sweep(base, variants, "top1"), best)
    top = tuple(base.logits.argmax(-1).tolist())
    np.testing.assert_array_equal(pp.sweep(base.scored(top, None), [[]], "top1"), 1.0)
    assert rank.max() > 0


def test_edits_of_keys_by_group_and_by_head_do_not_meet():
    base, _, _ = setting("llama")
    both = [pp.Edit(pp.Site(1, "k"), "scale", 0.5), pp.Edit(pp.Site(-2, "k_input", head=2), "scale", 0.5)]
    with pytest.raises(pp.PatchpointError, match="meet in layer 1"):
        pp.sweep(base, [both])
    with pytest.raises(pp.PatchpointError, match="meet in layer 1"):
        base.model.run(base.batch, edits=both)


def test_plans_are_plain_data():
    base, _, variants = setting("gpt2")
    plan = pp.sweep(base, variants, plan_only=True)
    assert set(dataclasses.asdict(plan)) == {"variants", "units", "chunks", "flops", "gib", "seconds"}
