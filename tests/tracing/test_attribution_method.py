"""Attribution against autograd through the plain Hugging Face model, and against exact exchanges where it is exact."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import patchpoint as pp
import reference
import reference_gradients
from patchpoint.engine import Batch, Edit, Site
from patchpoint.tracing.attribution import attributed
from patchpoint.tracing.exchange import STATES, Exchange, exchanged_layers, measured
from words import tiny_model

IDS, SPAN, SAMPLES = (5, 9, 13, 2, 44, 7), (1, 3), 3
CORRECT, INCORRECT = 20, 21
METRICS = {
    "prob": lambda logits: logits.softmax(-1)[CORRECT],
    "logit": lambda logits: logits[CORRECT],
    "logprob": lambda logits: logits.log_softmax(-1)[CORRECT],
    "logit_diff": lambda logits: logits[CORRECT] - logits[INCORRECT],
}


def noise_for(model, std=1.0):
    generator = torch.Generator().manual_seed(5)
    return std * torch.randn(SAMPLES, SPAN[1] - SPAN[0], model.d_embed, generator=generator)


def exchange(model, *, state="resid", direction="restore", metric="prob", window=2, std=1.0, **more):
    clean = model.run(Batch((IDS,), (CORRECT,), (INCORRECT,)))
    batch = clean.batch.repeat(SAMPLES)
    edit = Edit(Site(0, "embed", tuple(range(*SPAN))), "add", noise_for(model, std))
    corrupt = model.run(batch, edits=[edit])
    base, source = (corrupt, clean) if direction == "restore" else (model.run(batch), corrupt)
    return Exchange(base, source, SPAN[0], state, window, metric, **more)


def expected(model, state, direction, metric, window):
    """{(token, layer, sample)} from one backward pass of autograd per sample."""
    hf, n_layers, component = model.hf, model.n_layers, STATES[state]
    places = [(layer, component) for layer in range(n_layers)] + [(0, "resid_pre")]
    clean = reference.activations(hf, IDS, places)
    corruption = [(0, "embed", range(*SPAN), None, "add", noise_for(model))]
    corrupt = reference.activations(hf, IDS, places, corruption, SAMPLES)
    values = np.zeros((len(IDS), n_layers, SAMPLES))
    for sample in range(SAMPLES):
        there, here = ({k: v[min(sample, len(v) - 1)] for k, v in run.items()} for run in (clean, corrupt))
        base, source = (here, there) if direction == "restore" else (there, here)
        stream = base[0, "resid_pre"]
        found = reference_gradients.node_gradients(hf, IDS, METRICS[metric], stream)
        alone = torch.stack(
            [
                ((source[k, component] - base[k, component]) * gradient_of(found, state, k, n_layers)).sum(-1)
                for k in range(n_layers)
            ],
            -1,
        )
        edits = corruption_of(sample, direction, model)
        start = METRICS[metric](reference.logits(hf, IDS, edits)[0])
        for layer in range(n_layers):
            over = list(exchanged_layers(state, layer, window, n_layers))
            values[:, layer, sample] = start + alone[:, over].sum(-1)
    return values


def gradient_of(found, state, layer, n_layers):
    if state != "resid":
        return found[layer, STATES[state]]
    # The stream behind the last block is what its MLP adds to.
    return found[layer + 1, "resid_pre"] if layer < n_layers - 1 else found[layer, "mlp_out"]


def corruption_of(sample, direction, model):
    added = noise_for(model)[sample : sample + 1]
    return [(0, "embed", range(*SPAN), None, "add", added)] if direction == "restore" else []


@pytest.mark.parametrize("direction", ["restore", "corrupt"])
@pytest.mark.parametrize("state", ["resid", "mlp", "attn"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_attribution_equals_autograd_through_the_plain_model(family, state, direction):
    model = tiny_model(family)
    got = attributed(exchange(model, state=state, direction=direction))
    want = expected(model, state, direction, "prob", 2)
    changes = got.samples.values - want[:1, :1]
    assert abs(changes[SPAN[0] :]).max() > 1e-4, "the estimates are the base's value, nothing is tested"
    np.testing.assert_allclose(got.samples.values, want, atol=1e-4 * abs(changes).max())


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_that_have_a_gradient(metric):
    model = tiny_model("llama")
    got = attributed(exchange(model, metric=metric)).samples.values
    want = expected(model, "resid", "restore", metric, 1)
    np.testing.assert_allclose(got, want, atol=1e-4 * abs(want - want[:1]).max())


def test_dims_and_what_is_exact():
    found = attributed(exchange(tiny_model("gpt2")))
    assert found.samples.dims == ("token", "layer", "sample")
    assert found.samples.shape == (len(IDS), 3, SAMPLES)
    assert found.exact.dims == ("token", "layer")
    assert found.exact.dtype == bool
    assert found.exact[: SPAN[0]].all()
    assert not found.exact[SPAN[0] :].any()
    for name in ("token", "layer"):
        np.testing.assert_array_equal(
            found.samples[name], measured(exchange(tiny_model("gpt2"))).samples[name]
        )


@pytest.mark.parametrize("direction", ["restore", "corrupt"])
@pytest.mark.parametrize("state", ["resid", "mlp", "attn"])
def test_small_exchanges_are_those_of_the_exact_sweep(state, direction):
    """To first order one layer's exchange is exact; in float64, where a small change can be seen."""
    model = tiny_model("llama")
    model.hf.double()
    asked = exchange(model, state=state, direction=direction, metric="logit_diff", window=1, std=1e-3)
    got, want = attributed(asked).samples, measured(asked).samples
    base = want[0, 0]
    assert abs(want - base).max() > 1e-6
    # Values are read in float32.
    assert abs(got - want).max() < 2e-2 * abs(want - base).max() + 1e-6


def test_a_metric_linear_in_what_is_exchanged_is_exact():
    """A last layer's MLP output at the final token, read by a model whose final norm is the identity."""
    model = tiny_model("gpt2")
    model.hf.transformer.ln_f = torch.nn.Identity()
    asked = exchange(model, state="mlp", metric="logit_diff", window=1)
    got, want = attributed(asked).samples, measured(asked).samples
    assert abs(want[-1, -1] - want[0, 0]).max() > 1e-3
    np.testing.assert_allclose(got[-1, -1], want[-1, -1], atol=1e-5)


def test_a_small_memory_budget_gives_the_same():
    model = tiny_model("llama")
    asked = exchange(model)
    want = attributed(asked).samples
    calls = []
    got = attributed(replace(asked, memory_gib=1.5e-4, progress=lambda *done: calls.append(done))).samples
    np.testing.assert_allclose(got, want, atol=1e-7)
    assert len(calls) > model.n_layers, "everything fits in one tile, nothing is tested"
    assert calls[-1][0] == calls[-1][1]
    assert calls == sorted(calls)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"sever": "mlp"}, "sever='mlp' is not offered with method attribution; use method exact"),
        ({"metric": "rank"}, "rank has no gradient; use one of prob"),
        ({"metric": "kl"}, "kl to the run itself has gradient 0"),
    ],
)
def test_what_has_no_estimate_is_refused(more, message):
    with pytest.raises(pp.PatchpointError, match=message):
        attributed(exchange(tiny_model("gpt2"), **more))
