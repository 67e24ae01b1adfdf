"""Every component, operation and source against the hook loop, over all families."""

import numpy as np
import pytest
import torch

import patchpoint as pp
import reference
from families import FAMILY_NAMES, VARIANTS
from patchpoint.engine import Batch
from patchpoint.engine.metrics import METRICS
from words import tiny_model

PROMPTS = ((5, 9, 13, 2, 44, 7, 31, 80), (11, 3, 60, 8, 21), (70, 71, 72, 73, 74, 75, 76, 77), (4, 6, 90))
DONORS = ((6, 9, 14, 2, 44, 8, 31, 80), (12, 3, 61, 8, 22), (70, 31, 72, 3, 74, 75, 7, 77), (4, 7, 91))
CORRECT, INCORRECT = (10, 20, 30, 40), (11, 21, 31, 41)
CONFIGS = [pytest.param(name, {}, id=name) for name in FAMILY_NAMES]
CONFIGS += [pytest.param(family, config, id=name) for name, (family, config) in VARIANTS.items()]


def components_of(model):
    blocks = model.adapter.blocks
    return ["resid_pre", "z", "attn_out", "mlp_out", "resid_post"] + (
        [] if blocks[0].parallel else ["resid_mid"]
    )


def expected(model, variants, metric):
    """[variant, prompt] by the loop; a variant is a list of reference edits per prompt."""
    plain = [reference.logits(model.hf, ids) for ids in PROMPTS]
    rows = []
    for per_prompt in variants:
        changed = [reference.logits(model.hf, PROMPTS[p], edits) for p, edits in enumerate(per_prompt)]
        scored = zip(changed, CORRECT, INCORRECT, plain, strict=True)
        rows.append([float(reference.read(logits, metric, *answers)[0]) for logits, *answers in scored])
    return np.array(rows)


@pytest.mark.parametrize(("family", "config"), CONFIGS)
def test_replacing_from_another_run_equals_the_hook_loop(family, config):
    model = tiny_model(family, **config)
    source = model.run(Batch(DONORS))
    variants, references = [], []
    for component in components_of(model):
        for layer in range(model.n_layers):
            for head in (None, 1) if component == "z" else (None,):
                for position in (0, 1, -1):
                    variants.append(pp.Edit(pp.Site(layer, component, position, head), "replace", source))
                    references.append(
                        [donor_edit(model, p, layer, component, position, head) for p in range(4)]
                    )
    base = model.run(Batch(PROMPTS, CORRECT, INCORRECT))
    got = pp.sweep(base, variants, metric="logit_diff").values
    want = expected(model, references, "logit_diff")
    assert np.abs(want - base_logit_diff(model)).max() > 1e-2, "the edits change nothing"
    np.testing.assert_allclose(got, want, atol=1e-4)


def donor_edit(model, prompt, layer, component, position, head):
    n_tokens = len(PROMPTS[prompt])
    at = position % n_tokens
    there = reference.activations(model.hf, DONORS[prompt], _places(layer, component))
    rows = _read(there, layer, component)[:, [at]]
    if head is not None:
        d_head = rows.shape[-1] // model.n_heads
        rows = rows[..., head * d_head : (head + 1) * d_head]
    return [(layer, component, [at], head, "replace", rows)]


def _places(layer, component):
    return [(layer, "resid_pre"), (layer, "attn_out")] if component == "resid_mid" else [(layer, component)]


def _read(there, layer, component):
    if component == "resid_mid":
        return there[layer, "resid_pre"] + there[layer, "attn_out"]
    return there[layer, component]


def base_logit_diff(model):
    return expected(model, [[[] for _ in PROMPTS]], "logit_diff")


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("op", ["add", "scale", "replace"])
def test_numbers_and_tensors_equal_the_hook_loop(family, op):
    model = tiny_model(family)
    generator = torch.Generator().manual_seed(1)
    base = model.run(Batch(PROMPTS, CORRECT, INCORRECT))
    variants, references = [], []
    for component in components_of(model):
        head = 2 if component == "z" else None
        width = model.adapter.blocks[0].d_head if head else model.d_model
        for value in (
            0.0,
            1.5,
            *torch.randn(2, width, generator=generator),
            torch.randn(2, width, generator=generator),
        ):
            variants.append(pp.Edit(pp.Site(1, component, (-1, 1), head), op, value))
            per_prompt = value if isinstance(value, float) or value.ndim == 2 else value.expand(2, -1)
            references.append([[(1, component, [len(ids) - 1, 1], head, op, per_prompt)] for ids in PROMPTS])
    got = pp.sweep(base, variants, metric="logprob").values
    np.testing.assert_allclose(got, expected(model, references, "logprob"), atol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "gemma2"])
def test_several_edits_of_one_variant(family):
    """At several layers, tokens and components, and two at one site, in the order given."""
    model = tiny_model(family)
    base = model.run(Batch(PROMPTS, CORRECT, INCORRECT))
    layered = [(2, "mlp_out", [2]), (0, "attn_out", [1]), (1, "resid_post", [0, 2]), (1, "z", [1])]
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(3)).expand(1, -1)
    same_site = [(1, "mlp_out", [1], None, "scale", 2.0), (1, "mlp_out", [1], None, "add", vector)]
    variants = [[(*place, None, "scale", -1.3) for place in layered], same_site, same_site[::-1], []]
    sites = [[pp.Edit(pp.Site(k, c, tuple(at)), op, value) for k, c, at, _, op, value in v] for v in variants]
    want = expected(model, [[v] * len(PROMPTS) for v in variants], "logit")
    np.testing.assert_allclose(pp.sweep(base, sites, metric="logit").values, want, atol=1e-4)
    assert abs(want[1] - want[2]).max() > 1e-3, "the order at one site must matter"


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_metrics_equal_those_of_the_full_logits(family, metric):
    model = tiny_model(family)
    base = model.run(Batch(PROMPTS, CORRECT, INCORRECT))
    variant = pp.Edit(pp.Site(1, "resid_pre", 1), "scale", 0.5)
    want = expected(model, [[[(1, "resid_pre", [1], None, "scale", 0.5)]] * 4], metric)
    np.testing.assert_allclose(pp.sweep(base, [variant], metric).values, want, atol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral", "gemma2", "gptj"])
def test_edits_on_a_run_itself(family):
    """A base that carries edits of its own, and variants on top of it."""
    model = tiny_model(family)
    noise = torch.randn(
        4, 2, model.hf.get_input_embeddings().weight.shape[1], generator=torch.Generator().manual_seed(2)
    )
    own = [
        pp.Edit(pp.Site(0, "embed", (0, 2)), "add", noise),
        pp.Edit(pp.Site(1, "mlp_out", 1), "scale", 0.0),
    ]
    base = model.run(Batch(PROMPTS, CORRECT, INCORRECT), edits=own)
    references = [
        [(0, "embed", [0, 2], None, "add", noise[p]), (1, "mlp_out", [1], None, "scale", 0.0)]
        for p in range(4)
    ]
    for p, edits in enumerate(references):
        want = reference.logits(model.hf, PROMPTS[p], edits)[0]
        torch.testing.assert_close(base.logits[p], want, atol=1e-4, rtol=0)
    got = pp.sweep(base, [pp.Edit(pp.Site(2, "attn_out", -1), "scale", 2.0)], "logit").values
    on_top = [
        [*edits, (2, "attn_out", [len(PROMPTS[p]) - 1], None, "scale", 2.0)]
        for p, edits in enumerate(references)
    ]
    np.testing.assert_allclose(got, expected(model, [on_top], "logit"), atol=1e-4)
