"""Gradients at every node and port against autograd through the plain model, and against finite differences."""

import gc

import numpy as np
import pytest
import torch

import patchpoint as pp
import reference
import reference_gradients
from families import FAMILY_NAMES, VARIANTS
from patchpoint.engine import Batch
from patchpoint.engine.gradients.final import GRADED, final_gradient
from patchpoint.engine.gradients.layers import embed_gradient, layer_gradients
from patchpoint.errors import InvalidArgument, UnknownName
from words import tiny_model

PROMPTS = ((5, 9, 13, 2, 44, 7, 31, 80), (11, 3, 60, 8, 21), (70, 71, 72, 73, 74, 75, 76, 77), (4,))
OTHERS = ((6, 9, 14, 2, 44, 8, 31, 80), (12, 3, 61, 8, 22), (70, 31, 72, 3, 74, 75, 7, 77), (5,))
CORRECT, INCORRECT = (10, 20, 30, 40), (11, 21, 31, 41)
CONFIGS = [pytest.param(name, {}, id=name) for name in FAMILY_NAMES]
CONFIGS += [pytest.param(family, config, id=name) for name, (family, config) in VARIANTS.items()]
NODES = ("resid_pre", "z", "attn_out", "mlp_in", "mlp_out")
MANY_TILES = 1.5e-4
"""GiB into which a few tokens of a tiny model fit."""


def scored(model, prompts=PROMPTS, numbers=range(4)):
    return model.run(Batch(prompts, tuple(CORRECT[i] for i in numbers), tuple(INCORRECT[i] for i in numbers)))


def gradients(run, metric="logit_diff", *, base=None, memory_gib=None):
    """{(layer, component): [row, width]}, heads side by side."""
    found = {}
    for layer in layer_gradients(run, final_gradient(run, metric, base=base), memory_gib=memory_gib):
        for name in NODES:
            found.setdefault((layer.layer, name), {})[layer.rows.start] = getattr(layer, name).flatten(1)
        for part in "qkv":
            found.setdefault((layer.layer, part), {})[layer.rows.start] = layer.port(part)
    joined = {key: torch.cat([parts[start] for start in sorted(parts)]) for key, parts in found.items()}
    return {**joined, (0, "embed"): embed_gradient(run, joined[0, "resid_pre"])}


def difference(prompt):
    return lambda logits: logits[CORRECT[prompt]] - logits[INCORRECT[prompt]]


def assert_equal(got, want, tolerance):
    scale = want.abs().max()
    assert scale > 0, "this gradient is zero, nothing is tested"
    assert (got - want).abs().max() <= tolerance * scale


@pytest.mark.parametrize(("family", "config"), CONFIGS)
def test_r13_node_gradients_equal_autograd_through_the_plain_model(family, config):
    model = tiny_model(family, **config)
    run = scored(model)
    found = gradients(run)
    for prompt, ids in enumerate(PROMPTS):
        want = reference_gradients.node_gradients(model.hf, ids, difference(prompt))
        for layer in range(model.n_layers):
            assert {(layer, name) for name in NODES if name != "mlp_in"} <= want.keys()
        for key, gradient in want.items():
            assert_equal(found[key][run.packing.rows(prompt)], gradient, 1e-4)


@pytest.mark.parametrize(("family", "config"), CONFIGS)
def test_r13_port_gradients_equal_autograd_through_the_plain_model(family, config):
    model = tiny_model(family, **config)
    run = scored(model)
    found = gradients(run)
    for layer in range(model.n_layers):
        want = reference_gradients.port_gradients(model.hf, PROMPTS[0], layer, difference(0))
        # On one scale: keys and queries may matter a thousand times less than values.
        for part, gradient in want.items():
            assert_equal(found[layer, part][run.packing.rows(0)], gradient, 1e-4)
            per_head = gradient.abs().amax((0, 2))
            assert (per_head > 0).all(), "a head's port has no gradient, nothing is tested"


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_ports_add_up_to_the_stream(family):
    run = scored(tiny_model(family))
    for layer in layer_gradients(run, final_gradient(run)):
        ports = sum(layer.port(part).sum(1) for part in "qkv") + layer.mlp_in
        assert_equal(layer.mlp_out + ports, layer.resid_pre, 1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "gemma2", "opt"])
@pytest.mark.parametrize("metric", [*GRADED, "callable"])
def test_gradients_of_every_metric(family, metric):
    model = tiny_model(family)
    run, base = scored(model), scored(model, OTHERS)

    def margin(logits, prompts):
        return logits[torch.arange(len(prompts)), 3 + prompts] ** 2 - logits.logsumexp(-1)

    found = gradients(run, margin if metric == "callable" else metric, base=base)
    for prompt, ids in enumerate(PROMPTS):
        theirs = base.logits[prompt].log_softmax(-1)
        plain = {
            "logit": lambda logits, p=prompt: logits[CORRECT[p]],
            "logit_diff": difference(prompt),
            "prob": lambda logits, p=prompt: logits.softmax(-1)[CORRECT[p]],
            "logprob": lambda logits, p=prompt: logits.log_softmax(-1)[CORRECT[p]],
            "kl": lambda logits, q=theirs: (q.exp() * (q - logits.log_softmax(-1))).sum(),
            "callable": lambda logits, p=prompt: logits[3 + p] ** 2 - logits.logsumexp(-1),
        }[metric]
        want = reference_gradients.node_gradients(model.hf, ids, plain)
        for key in ((0, "resid_pre"), (1, "z"), (2, "mlp_out")):
            assert_equal(found[key][run.packing.rows(prompt)], want[key], 1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "gemma2", "gptj"])
def test_r13_gradients_equal_finite_differences_in_float64(family):
    """Every component moved along a random direction in the plain loop."""
    model = tiny_model(family)
    model.hf.double()
    run = scored(model, PROMPTS[:1], (0,))
    found, generator = gradients(run), torch.Generator().manual_seed(0)
    names = {
        "z": "z",
        "mlp_out": "mlp_out",
        "mlp_in": "mlp_in",
        "attn_out": "attn_out",
        "resid_pre": "resid_pre",
    }
    for layer in range(model.n_layers):
        for name in names:
            gradient = found[layer, name]
            assert gradient.dtype == torch.float64
            step = torch.randn(gradient.shape, generator=generator, dtype=torch.float64)
            check_step(model, (layer, name, None, None, "add"), step, (gradient * step).sum())
        for part in "qkv":
            head = int(torch.randint(model.n_heads, (), generator=generator))
            gradient = found[layer, part][:, head]
            step = torch.randn(gradient.shape, generator=generator, dtype=torch.float64)
            check_step(model, (layer, f"{part}_input", None, head, "add"), step, (gradient * step).sum())


def check_step(model, place, step, slope):
    size = 3e-2 / step.norm()
    ahead, behind = (difference(0)(plain_logits(model.hf, [(*place, s * size * step)])) for s in (1, -1))
    # Families with RMS norms divide in float32 within a float64 model.
    np.testing.assert_allclose((ahead - behind) / (2 * size), slope, rtol=1e-2, atol=1e-5)


@torch.no_grad()
def plain_logits(hf, edits):
    ids = PROMPTS[0]
    with reference.hooked(hf, 1, reference.without_ports(hf, ids, edits, 1), {}):
        return hf(torch.tensor([ids])).logits[0, -1]


@pytest.mark.parametrize(
    ("family", "config"), [("llama", {}), ("gpt2", {}), ("mistral", {"sliding_window": 4})]
)
@pytest.mark.parametrize("memory_gib", [None, MANY_TILES])
def test_r15_gradients_in_a_ragged_batch_equal_single_runs(family, config, memory_gib):
    model = tiny_model(family, **config)
    run = scored(model)
    together = gradients(run, memory_gib=memory_gib)
    for prompt, ids in enumerate(PROMPTS):
        alone = gradients(scored(model, (ids,), (prompt,)))
        for key, gradient in alone.items():
            if gradient.abs().max() > 0:
                assert_equal(together[key][run.packing.rows(prompt)], gradient, 1e-5)


def test_small_memory_makes_several_tiles_and_the_same_gradients():
    run = scored(tiny_model("llama"))
    tiles = list(layer_gradients(run, final_gradient(run), memory_gib=MANY_TILES))
    assert len(tiles) > run.model.n_layers
    assert len(list(layer_gradients(run, final_gradient(run)))) == run.model.n_layers
    with pytest.raises(InvalidArgument, match="larger memory budget"):
        list(layer_gradients(run, final_gradient(run), memory_gib=1e-5))


def test_ports_of_chosen_rows():
    run = scored(tiny_model("llama"))
    chosen = torch.tensor([0, 3, 4, 9])
    for layer in layer_gradients(run, final_gradient(run)):
        for part in "qkv":
            torch.testing.assert_close(layer.port(part, chosen), layer.port(part)[chosen])


def live_tensors():
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_r41_no_graph_survives_and_parameters_get_no_gradients(mode):
    model = tiny_model("gemma2")
    model.hf.requires_grad_(True)
    with mode():
        run = scored(model)
        final = final_gradient(run)
        kept = list(layer_gradients(run, final))
        results = [getattr(layer, name) for layer in kept for name in (*NODES, *"qkv")]
        results += [layer.port(part) for layer in kept for part in "qkv"]
        results += [final, embed_gradient(run, kept[-1].resid_pre), *run.resid]
        assert all(x.grad_fn is None and not x.requires_grad for x in results)
        assert all(parameter.grad is None for parameter in model.hf.parameters())
        del kept, results
        counts = []
        for _ in range(5):
            for layer in layer_gradients(run, final):
                layer.port("q")
            del layer
            counts.append(live_tensors())
    assert len(set(counts[1:])) == 1, f"tensors pile up: {counts}"
    assert torch.is_grad_enabled()


def test_inference_mode_changes_nothing():
    model = tiny_model("llama")
    want = gradients(scored(model))
    with torch.inference_mode():
        found = gradients(scored(model))
    for key, gradient in want.items():
        assert torch.equal(found[key], gradient)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_small_gradients_do_not_vanish_in_low_precision(dtype):
    """The probability of an unlikely answer has gradients below what float16 can hold."""
    model = tiny_model("llama")
    with torch.no_grad():
        model.hf.lm_head.weight.mul_(6.0)
    prompt = PROMPTS[:1]
    wide = model.run(Batch(prompt, (int(model.run(Batch(prompt)).logits[0].argmin()),)))
    want = gradients(wide, "prob")
    assert 0 < want[0, "resid_pre"].abs().max() < 6e-8, "float16 holds these, nothing is tested"
    model.hf.to(dtype)
    found = gradients(model.run(wide.batch), "prob")
    for key in ((2, "mlp_out"), (1, "z"), (0, "resid_pre"), (1, "v")):
        assert found[key].dtype == torch.float32
        ours, theirs = (x[key].flatten().double() for x in (found, want))
        similarity = (ours @ theirs) / (ours.norm() * theirs.norm())
        assert similarity > 0.98, (key, similarity)


def test_wrong_asks_are_refused_in_one_line():
    model = tiny_model("gpt2")
    run = scored(model)
    with pytest.raises(UnknownName, match="did you mean logit"):
        final_gradient(run, "logitt")
    with pytest.raises(InvalidArgument, match="rank has no gradient; use one of prob"):
        final_gradient(run, "rank")
    with pytest.raises(InvalidArgument, match="incorrect"):
        final_gradient(model.run(Batch(PROMPTS, CORRECT)), "logit_diff")
    with pytest.raises(InvalidArgument, match="answers"):
        final_gradient(model.run(Batch(PROMPTS)), "prob")
    with pytest.raises(InvalidArgument, match="one number per row"):
        final_gradient(run, lambda logits, prompts: logits)
    with pytest.raises(InvalidArgument, match="have no gradient"):
        final_gradient(run, lambda logits, prompts: logits.argmax(-1).float())
    with pytest.raises(InvalidArgument, match="give final_gradient of this run"):
        list(layer_gradients(run, final_gradient(run)[:2]))
    with pytest.raises(UnknownName, match="part of a head"):
        next(layer_gradients(run, final_gradient(run))).port("z")


def test_runs_edited_above_the_embedding_are_refused_and_others_taken():
    model = tiny_model("gpt2")
    edited = model.run(Batch(PROMPTS, CORRECT, INCORRECT), edits=[pp.Edit(pp.Site(1, "z"), "scale", 0.0)])
    for compute in (final_gradient, lambda run: list(layer_gradients(run, torch.zeros(4, 32)))):
        with pytest.raises(InvalidArgument, match="edits z of layer 1"):
            compute(edited)
    noise = torch.randn(8, model.d_embed, generator=torch.Generator().manual_seed(5))
    noisy = model.run(
        Batch(PROMPTS[:1], CORRECT[:1], INCORRECT[:1]), edits=[pp.Edit(pp.Site(0, "embed"), "add", noise)]
    )
    want = reference_gradients.node_gradients(model.hf, PROMPTS[0], difference(0), noisy.resid[0])
    found = gradients(noisy)
    for key in ((0, "resid_pre"), (1, "z"), (2, "mlp_out")):
        assert_equal(found[key], want[key], 1e-4)
