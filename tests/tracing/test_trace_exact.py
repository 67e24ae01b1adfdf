"""pp.trace against the definition by hooks, on every family, state and direction."""

import numpy as np
import pytest
import torch

import patchpoint as pp
import reference
from families import FAMILY_NAMES
from words import tiny_model

PROMPT = "w5 w9 w13 w2 w44 w7"
IDS = (5, 9, 13, 2, 44, 7)
SPAN = (1, 3)


def noise_for(model, samples=3):
    width = model.hf.get_input_embeddings().weight.shape[1]
    return torch.randn(samples, SPAN[1] - SPAN[0], width, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("direction", ["restore", "corrupt"])
@pytest.mark.parametrize("state", ["resid", "mlp", "attn"])
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_trace_equals_the_hook_loop(family, state, direction):
    model, settings = tiny_model(family), {"state": state, "direction": direction, "window": 2}
    noise = noise_for(model)
    got = pp.trace(model, PROMPT, subject="w9 w13", answer="w20", noise=noise, **settings)
    want = reference.trace(model.hf, IDS, SPAN, noise, 20, **settings)
    for (token, layer), per_sample in want.items():
        np.testing.assert_allclose(got.samples[token, layer], per_sample, atol=1e-6)
    corruption = [(0, "embed", range(*SPAN), None, "add", noise)]
    p_corrupt = reference.read(reference.logits(model.hf, IDS, corruption, 3), "prob", 20).mean()
    p_clean = reference.read(reference.logits(model.hf, IDS), "prob", 20)[0]
    assert got.p_corrupt == pytest.approx(float(p_corrupt), abs=1e-6)
    assert got.p_clean == pytest.approx(float(p_clean), abs=1e-6)
    start = got.p_corrupt if direction == "restore" else got.p_clean
    np.testing.assert_allclose(got.effect, got.p_restored - start, atol=1e-6)
    assert abs(got.effect).max() > 1e-4, "a wrong site would pass unseen"


@pytest.mark.parametrize("metric", ["logit", "logprob", "logit_diff"])
def test_other_metrics(metric):
    model = tiny_model("llama")
    noise = noise_for(model)
    got = pp.trace(model, PROMPT, subject="w9 w13", answer="w20", incorrect="w21", noise=noise, metric=metric)
    want = reference.trace(model.hf, IDS, SPAN, noise, 20, metric=metric, incorrect=21)
    for (token, layer), per_sample in want.items():
        np.testing.assert_allclose(got.samples[token, layer], per_sample, atol=1e-4)


@pytest.mark.parametrize("window", [1, 2, 3, 10])
def test_a_window_is_an_interval_of_layers_centred_at_the_site(window):
    model = tiny_model("gpt2", n_layer=5)
    noise = noise_for(model, 1)
    got = pp.trace(model, PROMPT, subject="w9 w13", answer="w20", noise=noise, state="mlp", window=window)
    want = reference.trace(
        model.hf, IDS, SPAN, noise, 20, state="mlp", window=window, sites=[(2, k) for k in range(5)]
    )
    for (token, layer), per_sample in want.items():
        np.testing.assert_allclose(got.samples[token, layer], per_sample, atol=1e-4)


def test_noise_comes_from_the_seed_and_scales_with_the_subject_embeddings():
    model = tiny_model("llama")
    by_seed = [pp.trace(model, PROMPT, subject="w9 w13", noise="s3", seed=s) for s in (0, 0, 1)]
    np.testing.assert_array_equal(by_seed[0].samples, by_seed[1].samples)
    assert abs(by_seed[0].samples - by_seed[2].samples).max() > 1e-4
    embeddings = model.hf.get_input_embeddings().weight.detach()[list(IDS[slice(*SPAN)])]
    assert by_seed[0].noise_std == pytest.approx(3 * float(embeddings.std()), rel=1e-5)
    as_number = pp.trace(model, PROMPT, subject="w9 w13", noise=by_seed[0].noise_std, seed=0)
    np.testing.assert_allclose(as_number.samples, by_seed[0].samples, atol=1e-6)
    drawn = (
        torch.randn(10, 2, model.d_model, generator=torch.Generator().manual_seed(0)) * by_seed[0].noise_std
    )
    as_array = pp.trace(model, PROMPT, subject="w9 w13", noise=drawn)
    np.testing.assert_allclose(as_array.samples, by_seed[0].samples, atol=1e-6)


def test_the_answer_is_the_prediction_unless_given():
    model = tiny_model("gpt2")
    predicted = int(reference.logits(model.hf, IDS).argmax())
    t = pp.trace(model, PROMPT, subject="w9 w13", samples=2)
    assert (t.answer_id, t.answer.strip()) == (predicted, f"w{predicted}")
    assert [text.strip() for text in t.tokens] == PROMPT.split()
    assert t.starred_tokens[1:3] == (" w9*", " w13*")
    assert t.effect.dims == ("token", "layer")
    assert t.total_effect == t.p_clean - t.p_corrupt


def test_standard_error_over_samples():
    t = pp.trace(tiny_model("gpt2"), PROMPT, subject="w9 w13", samples=4)
    differences = t.samples.values - np.array(t.corrupt_samples)
    np.testing.assert_allclose(t.effect_se, differences.std(axis=-1, ddof=1) / 2, atol=1e-9)
    assert np.isnan(pp.trace(tiny_model("gpt2"), PROMPT, subject="w9 w13", samples=1).effect_se).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"subject": "w96"}, "subject 'w96' is not in the prompt"),
        ({"subject": " "}, "blank"),
        ({"noise": "x3"}, "noise 'x3' is not understood"),
        ({"noise": "s-1"}, "not understood"),
        ({"noise": float("nan")}, "not understood"),
        ({"noise": np.zeros((2, 3, 32), dtype="float32")}, r"shape \(2, 3, 32\); expected \[samples, 2"),
        ({"noise": np.full((2, 2, 32), np.nan, dtype="float32")}, "finite"),
        ({"state": "mpl"}, "did you mean mlp"),
        ({"direction": "back"}, "unknown direction"),
        ({"metric": "probb"}, "did you mean prob"),
        ({"metric": "logit_diff"}, "give incorrect="),
        ({"incorrect": "w3"}, "give answer="),
        ({"samples": 0}, "samples must be at least 1"),
        ({"window": 0}, "window must be at least 1"),
        ({"answer": "w3", "incorrect": "w3"}, "no token that tells them apart"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(pp.PatchpointError, match=message):
        pp.trace(tiny_model("gpt2"), PROMPT, **{"subject": "w9 w13", **arguments})


@pytest.mark.parametrize(
    ("prompt", "message"), [("", "empty"), ("w1 " * 65, "65 tokens, the model reads at most 64")]
)
def test_r59_unusable_prompts(prompt, message):
    with pytest.raises(pp.PatchpointError, match=message):
        pp.trace(tiny_model("gpt2"), prompt.strip(), subject="w1")


def test_r59_a_one_token_prompt_is_traced():
    t = pp.trace(tiny_model("gpt2"), "w1", subject="w1", samples=2)
    assert t.effect.shape == (1, 3)
    np.testing.assert_allclose(t.p_restored[0], t.p_clean, atol=1e-6)
