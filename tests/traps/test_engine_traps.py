"""Errors that other tools shipped, made impossible in the engine. Named by the identifiers of the project's list."""

import gc

import numpy as np
import psutil
import pytest
import torch

import patchpoint as pp
from families import FAMILY_NAMES, tiny
from patchpoint.engine import Batch
from patchpoint.engine.forward import KEPT
from patchpoint.models.families import adapter_for
from words import tiny_model, word_tokenizer

IDS = (5, 9, 13, 2, 44, 7)
OTHER = (6, 9, 14, 2, 45, 7)


def components_of(model):
    return [
        name for name in (*KEPT, "resid_post") if name != "resid_mid" or not model.adapter.blocks[0].parallel
    ]


def every_site(model):
    for component in ("resid_pre", *components_of(model)):
        for layer in range(model.n_layers):
            for head in (None, *range(model.n_heads)) if component == "z" else (None,):
                for position in range(len(IDS)):
                    yield pp.Site(layer, component, (position,), head)


def ragged(n):
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(1, 12, (n,), generator=generator).tolist()
    return tuple(tuple(torch.randint(97, (length,), generator=generator).tolist()) for length in lengths)


def test_r03_strings_ids_and_tensors_are_the_same_prompts():
    model = tiny_model("gpt2")
    text = " ".join(f"w{i}" for i in IDS)
    runs = [
        model.run(p) for p in (text, [text], list(IDS), [list(IDS)], torch.tensor(IDS), torch.tensor([IDS]))
    ]
    for run in runs[1:]:
        assert torch.equal(run.logits, runs[0].logits)
        assert torch.equal(run.cache[pp.Site(1, "z")], runs[0].cache[pp.Site(1, "z")])


def test_r04_positions_mean_the_same_in_a_ragged_batch_and_alone():
    model, prompts = tiny_model("llama"), ragged(8)
    for position in (-1, 0):
        edit = pp.Edit(pp.Site(1, "mlp_out", position), "scale", -2.0)
        together = pp.sweep(model.run(Batch(prompts, (3,) * 8)), [edit], "logit").values[0]
        alone = [pp.sweep(model.run(Batch((ids,), (3,))), [edit], "logit").values[0, 0] for ids in prompts]
        np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_r05_a_ragged_batch_equals_its_prompts_alone_clean_and_patched(family):
    model, prompts = tiny_model(family), ragged(16)
    together = model.run(Batch(prompts, (3,) * 16))
    variants = [pp.Edit(pp.Site(layer, "attn_out"), "scale", 0.0) for layer in range(3)]
    swept = pp.sweep(together, variants, "logit").values
    for number, ids in enumerate(prompts):
        single = model.run(Batch((ids,), (3,)))
        torch.testing.assert_close(together.logits[number], single.logits[0], atol=1e-5, rtol=0)
        np.testing.assert_allclose(
            swept[:, number], pp.sweep(single, variants, "logit").values[:, 0], atol=1e-5
        )


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_r12_every_edit_takes_place(family):
    """Zeroing any site that reaches the final token changes the answer's logit."""
    model = tiny_model(family)
    base = model.run(Batch((IDS,), (10,)))
    sites = [s for s in every_site(model) if s.positions == (len(IDS) - 1,) or s.layer == 0]
    values = pp.sweep(base, [pp.Edit(site, "replace", 0.0) for site in sites], "logit").values[:, 0]
    assert (np.abs(values - base.logits[0, 10].item()) > 1e-6).all()


def test_r14_an_edit_of_one_prompt_leaves_the_others_alone():
    model = tiny_model("gpt2")
    base = model.run(Batch((IDS, IDS), (10, 10)))
    value = torch.zeros(2, 1, model.d_model)
    value[1] = torch.randn(model.d_model, generator=torch.Generator().manual_seed(1))
    got = pp.sweep(base, [pp.Edit(pp.Site(1, "mlp_out", 3), "add", value)], "logit").values[0]
    assert got[0] == pytest.approx(base.logits[0, 10].item(), abs=1e-6)
    assert abs(got[1] - got[0]) > 1e-4


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_r16_self_patch_is_identity(family):
    model = tiny_model(family)
    base = model.run(Batch((IDS,), (10,)))
    values = pp.sweep(base, [pp.Edit(site, "replace", base) for site in every_site(model)], "logit").values
    np.testing.assert_allclose(values, base.logits[0, 10].item(), atol=2e-6)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_r17_the_last_state_is_the_answer_and_all_states_are_the_donor(family):
    model = tiny_model(family)
    donor, base = model.run(Batch((OTHER,))), model.run(Batch((IDS,), (10,)))
    last = pp.Edit(pp.Site(model.n_layers - 1, "resid_post", -1), "replace", donor)
    everything = [pp.Edit(pp.Site(layer, "resid_post"), "replace", donor) for layer in range(model.n_layers)]
    values = pp.sweep(base, [last, everything], "logit").values
    np.testing.assert_allclose(values, donor.logits[0, 10].item(), atol=1e-6)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_r18_an_edit_leaves_earlier_tokens_bit_equal(family):
    model = tiny_model(family)
    plain = model.run(Batch((IDS,)))
    changed = model.run(Batch((IDS,)), edits=[pp.Edit(pp.Site(0, "resid_pre", 3), "scale", -3.0)])
    for layer in range(model.n_layers):
        site = pp.Site(layer, "resid_post", (0, 1, 2))
        if model.adapter.blocks[layer].d_mlp is None:
            # Tokens go through experts in batches, whose sizes follow the edited token's choice of experts.
            torch.testing.assert_close(plain.cache[site], changed.cache[site], atol=1e-6, rtol=1e-6)
        else:
            assert torch.equal(plain.cache[site], changed.cache[site])
        assert not torch.equal(
            plain.cache[pp.Site(layer, "resid_post", 3)], changed.cache[pp.Site(layer, "resid_post", 3)]
        )


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_r27_the_residual_stream_is_the_sum_of_what_is_added(family):
    model = tiny_model(family)
    run = model.run(Batch((IDS,)))
    for layer in range(model.n_layers):
        added = run.cache[pp.Site(layer, "attn_out")] + run.cache[pp.Site(layer, "mlp_out")]
        total = run.cache[pp.Site(layer, "resid_pre")] + added
        torch.testing.assert_close(run.cache[pp.Site(layer, "resid_post")], total, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("family", "n_kv"), [("llama", 1), ("llama", 2), ("llama", 4), ("qwen3", 2)])
def test_r31_r32_knocking_out_a_head_removes_its_columns_of_the_output_projection(family, n_kv):
    model = tiny_model(family, num_key_value_heads=n_kv)
    base = model.run(Batch((IDS,), (10,)))
    knock_outs = [pp.Edit(pp.Site(1, "z", head=head), "replace", 0.0) for head in range(4)]
    got = pp.sweep(base, knock_outs, "logit").values[:, 0]
    d_head = model.adapter.blocks[1].d_head
    for head in range(4):
        cut = tiny(family, num_key_value_heads=n_kv)
        with torch.no_grad():
            cut.model.layers[1].self_attn.o_proj.weight[:, head * d_head : (head + 1) * d_head] = 0
            want = cut(torch.tensor([IDS])).logits[0, -1, 10]
        assert got[head] == pytest.approx(want.item(), abs=1e-5)


def test_r37_hooks_of_the_caller_stay_and_none_is_added():
    model = tiny_model("llama")
    calls = []
    handle = model.hf.model.layers[1].register_forward_hook(lambda *arguments: calls.append(1))
    before = [dict(module._forward_hooks) for module in model.hf.modules()]
    base = model.run(Batch((IDS,), (10,)))
    pp.sweep(base, [pp.Edit(pp.Site(1, "z"), "scale", 0.0)], "logit")
    with pytest.raises(pp.PatchpointError):
        pp.sweep(base, [pp.Edit(pp.Site(9, "z"), "scale", 0.0)], "logit")
    assert [dict(module._forward_hooks) for module in model.hf.modules()] == before
    model.hf(torch.tensor([IDS]))
    assert calls
    handle.remove()


def test_r38_what_was_captured_is_not_overwritten_later():
    model = tiny_model("gptj")
    run = model.run(Batch((IDS,)))
    captured = {
        name: run.cache[pp.Site(0, name)].clone() for name in ("z", "attn_out", "mlp_out", "resid_post")
    }
    run.cache[pp.Site(0, "mlp_out")].zero_()
    pp.sweep(run.scored((10,), None), [pp.Edit(pp.Site(0, "mlp_out"), "scale", 0.0)], "logit")
    for name, values in captured.items():
        assert torch.equal(run.cache[pp.Site(0, name)], values)


def test_r39_earlier_calls_change_nothing():
    model, fresh = tiny_model("llama", **DYNAMIC), tiny_model("llama", **DYNAMIC)
    long = tuple(range(1, 31))
    model.run(Batch((long,)))
    pp.sweep(model.run(Batch((IDS,), (3,))), [pp.Edit(pp.Site(0, "z"), "scale", 0.0)], "logit")
    assert torch.equal(model.run(Batch((IDS,))).logits, fresh.run(Batch((IDS,))).logits)


DYNAMIC = {
    "max_position_embeddings": 8,
    "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 100.0},
}


def test_r41_nothing_keeps_a_graph_and_memory_stays_flat():
    model = tiny_model("llama")
    assert all(parameter.requires_grad for parameter in model.hf.parameters())
    base = model.run(Batch((IDS,), (10,)))
    for site in (pp.Site(1, name) for name in components_of(model)):
        assert base.cache[site].grad_fn is None
    assert base.logits.grad_fn is None
    for _ in range(5):
        pp.sweep(model.run(Batch((IDS,), (10,))), [pp.Edit(pp.Site(1, "z"), "scale", 0.0)], "logit")
    gc.collect()
    before = psutil.Process().memory_info().rss
    for _ in range(50):
        pp.sweep(model.run(Batch((IDS,), (10,))), [pp.Edit(pp.Site(1, "z"), "scale", 0.0)], "logit")
    gc.collect()
    assert psutil.Process().memory_info().rss - before < 20 * 2**20


def test_r43_what_is_planned_depends_on_the_prompt_not_on_the_context_length():
    def planned(context):
        model = tiny_model("llama", max_position_embeddings=context)
        base = model.run(Batch((IDS,), (10,)))
        plan = pp.sweep(base, [pp.Edit(pp.Site(0, "z"), "scale", 0.0)], plan_only=True, memory_gib=1)
        return plan.units, plan.flops, plan.gib, base.resid[0].shape

    assert planned(64) == planned(131072)


def test_r53_bfloat16_stays_as_near_to_float32_as_the_plain_model_does():
    hf = tiny("llama")
    exact = pp.Model(hf, word_tokenizer(), adapter_for(hf), "tiny").run(Batch((IDS,))).logits
    half = tiny("llama").to(torch.bfloat16)
    mine = pp.Model(half, word_tokenizer(), adapter_for(half), "tiny").run(Batch((IDS,))).logits.float()
    with torch.no_grad():
        plain = half(torch.tensor([IDS])).logits[:, -1].float()
    assert (mine - exact).abs().max() < 2 * (plain - exact).abs().max() + 1e-3


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "no prompts"),
        ([[]], "prompt 0 is empty"),
        ("", "empty"),
        ([[97]], "token ids must be from 0 to 96"),
        ([[1] * 65], "65 tokens, the model reads at most 64"),
        (torch.zeros(2, 3), "a tensor of prompts holds token ids"),
    ],
)
def test_r59_unusable_prompts_are_refused(prompts, message):
    with pytest.raises(pp.PatchpointError, match=message):
        tiny_model("gpt2").run(prompts)


def test_r59_one_token_prompts_run():
    model = tiny_model("gpt2")
    got = pp.sweep(model.run(Batch(((5,),), (10,))), [pp.Edit(pp.Site(2, "mlp_out"), "scale", 0.0)], "logit")
    assert got.shape == (1, 1)
