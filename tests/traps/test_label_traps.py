"""Traps about labels, shared modules and donors of another kind."""

import numpy as np
import pytest
import torch

import patchpoint as pp
from families import tiny
from patchpoint.engine import Batch
from patchpoint.models.families import adapter_for
from words import tiny_model, word_tokenizer

CLEAN = ((5, 9, 13, 2, 44, 7), (11, 3, 60, 8, 21, 30))
CORRUPT = ((5, 9, 14, 2, 40, 7), (11, 3, 61, 8, 22, 31))


def prompts_of(model):
    return pp.Prompts(
        ("a", "b"),
        ("c", "d"),
        Batch(CLEAN, (1, 2), (3, 4)),
        Batch(CORRUPT, (1, 2), (3, 4)),
        (1, 2),
        (3, 4),
        ({}, {}),
    )


def wrapped(hf):
    return pp.Model(hf, word_tokenizer(), adapter_for(hf), "tiny")


def test_r29_a_module_used_by_two_layers_gives_both():
    hf = tiny("llama")
    hf.model.layers[2] = hf.model.layers[0]
    model = wrapped(hf)
    base = model.run(Batch(CLEAN, (1, 2)))
    with torch.no_grad():
        for number, ids in enumerate(CLEAN):
            states = hf(torch.tensor([ids]), output_hidden_states=True).hidden_states
            for layer in range(2):
                stream = base.cache[pp.Site(layer, "resid_post")][number]
                torch.testing.assert_close(stream, states[layer + 1][0], atol=1e-5, rtol=1e-5)
    sites = [pp.Site(layer, "attn_out", -1) for layer in (0, 2)]
    assert not torch.equal(base.cache[sites[0]], base.cache[sites[1]])
    values = pp.sweep(base, [pp.Edit(site, "scale", 0.0) for site in sites], "logit").values
    assert (values[0] != values[1]).all(), "one module, two places"


@pytest.mark.parametrize("order", [(2, 0, 3, 1), (3, 2, 1, 0)])
def test_r30_labels_follow_heads_that_change_places(order):
    plain, moved = tiny("opt"), tiny("opt")
    with torch.no_grad():
        for layer in moved.model.decoder.layers:
            attention = layer.self_attn
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
                for tensor in (projection.weight, projection.bias):
                    heads = tensor.view(4, 8, -1)
                    tensor.copy_(heads[list(order)].reshape(tensor.shape).clone())
            weight = attention.out_proj.weight
            weight.copy_(weight.view(32, 4, 8)[:, list(order)].reshape(32, 32).clone())
    model, other = wrapped(plain), wrapped(moved)
    prompts = prompts_of(model)
    before, after = pp.patch_heads(model, prompts), pp.patch_heads(other, prompts)
    np.testing.assert_allclose(after.values, before.values[:, list(order)], atol=1e-5)
    knocked, knocked_after = pp.ablate_nodes(model, prompts), pp.ablate_nodes(other, prompts)
    for layer in range(3):
        for place, head in enumerate(order):
            want, got = (
                float(v.sel(node=f"{layer}.{h}")) for v, h in ((knocked, head), (knocked_after, place))
            )
            assert got == pytest.approx(want, abs=1e-5)
    assert np.ptp(before.values, axis=1).min() > 1e-4, "the heads must differ"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_r40_a_donor_of_another_number_format_is_converted(dtype):
    model = tiny_model("llama")
    base, donor = model.run(Batch(CLEAN, (1, 2))), model.run(Batch(CORRUPT))
    site = pp.Site(1, "resid_post", -1)
    value = donor.cache[site].to(dtype)
    got = pp.sweep(base, [pp.Edit(site, "replace", value)], "logit").values
    want = pp.sweep(base, [pp.Edit(site, "replace", value.float())], "logit").values
    np.testing.assert_array_equal(got, want)
    assert donor.cache[site].dtype == torch.float32
