"""What `pp.trace` can do beyond a plain trace, each against the same thing done by hooks, one site at a time."""

from importlib import import_module

import numpy as np
import pytest
import torch

import patchpoint as pp
import reference
import reference_tracing
from patchpoint.tasks.subject import SubjectPrompt
from patchpoint.tracing import Twin
from patchpoint.tracing.corruption import corruptor_of
from words import tiny_model

PROMPT, SUBJECT, ANSWER = "w5 w9 w13 w2 w44", "w9 w13", "w20"
IDS, FIRST, SPAN, ANSWER_ID = (5, 9, 13, 2, 44), 1, (1, 3), 20
FAMILIES = ("gpt2", "llama", "gpt_neox")
"""Sequential with learned positions; grouped keys and values; attention and MLP side by side."""
NOISES = (
    "s3",
    "0.8",
    "u1.5",
    "m",
    "t3",
    "replace:s3",
    "replace:0.5",
    "replace:u2",
    "replace:m",
    "replace:t4",
    "shuffle",
)
WAYS = {
    "resid": {},
    "mlp window": {"state": "mlp", "window": 2},
    "attn window": {"state": "attn", "window": 2},
    "corrupt": {"direction": "corrupt"},
    "corrupt, mlp window": {"state": "mlp", "window": 3, "direction": "corrupt"},
    "corrupt, attn window": {"state": "attn", "window": 1, "direction": "corrupt"},
    "mlp severed": {"sever": "mlp"},
    "attn severed": {"sever": "attn"},
}


def traced(model, samples=3, seed=7, **settings):
    return pp.trace(model, PROMPT, subject=SUBJECT, answer=ANSWER, samples=samples, seed=seed, **settings)


def drawn(model, noise, samples=3, seed=7):
    """The edits of the hook loop, from a draw over this prompt alone."""
    prompt = SubjectPrompt.from_text(model, PROMPT, subject=SUBJECT)
    corruption = corruptor_of(noise).fitted(model, [prompt]).drawn(model, prompt, samples, seed)
    return [(0, "embed", list(corruption.positions), None, corruption.op, corruption.values)]


def embedded(model, ids):
    return model.hf.get_input_embeddings()(torch.tensor(ids)).detach()


def close(got, want):
    np.testing.assert_allclose(np.asarray(got), np.asarray(want), atol=1e-6, rtol=0)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_noise_against_the_hook_loop(family, noise):
    model = tiny_model(family)
    disturbance = drawn(model, noise)
    got = traced(model, noise=noise)
    close(got.samples, reference_tracing.trace(model.hf, IDS, disturbance, ANSWER_ID, samples=3))
    corrupt = reference_tracing.probability(model.hf, IDS, ANSWER_ID, disturbance, 3)
    close(got.corrupt_samples, corrupt)
    assert got.p_corrupt == pytest.approx(float(corrupt.mean()), abs=1e-6)
    assert got.p_clean == pytest.approx(
        float(reference_tracing.probability(model.hf, IDS, ANSWER_ID)), abs=1e-6
    )
    close(got.effect, (got.samples - got.corrupt_samples).mean("sample"))
    assert got.total_effect == got.p_clean - got.p_corrupt
    assert abs(got.effect).max() > 1e-4, "a wrong site would pass unseen"
    assert got.exact.values.all()
    assert got.settings["noise"] == noise


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_way_against_the_hook_loop(family, way):
    model = tiny_model(family)
    got = traced(model, noise="s3", **WAYS[way])
    want = reference_tracing.trace(model.hf, IDS, drawn(model, "s3"), ANSWER_ID, samples=3, **WAYS[way])
    close(got.samples, want)
    start = got.p_clean if "corrupt" in way else got.p_corrupt
    close(got.effect, got.p_restored - start)
    assert abs(got.effect).max() > 1e-4


@pytest.mark.parametrize("sever", ["mlp", "attn"])
@pytest.mark.parametrize("family", FAMILIES)
def test_severing_changes_what_is_found(family, sever):
    model = tiny_model(family)
    whole, cut = traced(model, noise="s3"), traced(model, noise="s3", sever=sever)
    assert abs(whole.samples - cut.samples).max() > 1e-4
    close(whole.samples[:, -1], cut.samples[:, -1])
    close(whole.corrupt_samples, cut.corrupt_samples)


def test_windows_of_ten_layers_in_a_deep_model():
    model = tiny_model("gpt2", n_layer=13)
    for state in ("mlp", "attn"):
        got = traced(model, noise="s3", samples=1, state=state)
        for layer in range(13):
            layers = range(max(0, layer - 5), min(13, layer + 5))
            assert list(layers) == reference_tracing.window_of(state, layer, 10, 13)
        want = reference_tracing.trace(model.hf, IDS, drawn(model, "s3", 1), ANSWER_ID, state=state)
        close(got.samples, want)


def sites_of(n_layers):
    return [(token, layer) for token in range(FIRST, len(IDS)) for layer in range(n_layers)]


def fresh_disturbances(model, noise, samples, seed=7):
    """Noise by site: one long draw, dealt out token by token, and layer by layer within a token."""
    sites = sites_of(model.n_layers)
    ((*place, values),) = drawn(model, noise, samples * len(sites), seed)
    return {
        site: [(*place, values[number * samples : (number + 1) * samples])]
        for number, site in enumerate(sites)
    }


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", FAMILIES)
def test_fresh_noise_at_every_site_against_the_hook_loop(family, way):
    model = tiny_model(family)
    noise_at = fresh_disturbances(model, "s3", 2)
    got = traced(model, noise="s3", samples=2, fresh_noise=True, **WAYS[way])
    # Before the first token that differs no exchange matters, so any site's noise does there.
    restored, corrupt = reference_tracing.fresh(
        model.hf,
        IDS,
        lambda token, layer: noise_at[max(token, FIRST), layer],
        ANSWER_ID,
        samples=2,
        **WAYS[way],
    )
    close(got.samples[FIRST:], restored[FIRST:])
    close(got.corrupt_samples[FIRST:], corrupt[FIRST:])
    assert got.p_corrupt == pytest.approx(float(corrupt[FIRST:].mean()), abs=1e-6)
    start = got.p_clean if "corrupt" in way else corrupt[FIRST:]
    close(got.effect[FIRST:], (restored[FIRST:] - start).mean(-1))
    close(got.effect[:FIRST], np.zeros((FIRST, model.n_layers)))


@pytest.mark.parametrize("noise", ["0.8", "u1.5", "m", "t3", "replace:s3", "shuffle"])
def test_fresh_noise_of_every_kind(noise):
    model = tiny_model("llama")
    noise_at = fresh_disturbances(model, noise, 1)
    got = traced(model, noise=noise, samples=1, fresh_noise=True)
    for token, layer in sites_of(model.n_layers):
        want = reference_tracing.at_site(
            model.hf,
            IDS,
            noise_at[token, layer],
            ANSWER_ID,
            token,
            layer,
            state="resid",
            window=1,
            direction="restore",
            sever=None,
            samples=1,
        )
        close(got.samples[token, layer], want)


def test_fresh_noise_does_not_depend_on_what_is_run_together(monkeypatch):
    model = tiny_model("gpt2")
    whole = traced(model, noise="s3", samples=2, fresh_noise=True)
    for together in (1, 2, 5):
        monkeypatch.setattr(
            import_module("patchpoint.tracing.trace"), "sites_together", lambda *asked, some=together: some
        )
        close(traced(model, noise="s3", samples=2, fresh_noise=True).samples, whole.samples)


def test_fresh_noise_is_new_at_every_site():
    corrupt = traced(tiny_model("gpt2"), noise="s3", samples=2, fresh_noise=True).corrupt_samples[FIRST:]
    assert len(np.unique(corrupt)) == corrupt.size


@pytest.mark.parametrize("noise", NOISES)
def test_a_seed_gives_the_same_trace_and_another_seed_another(noise):
    model = tiny_model("gpt2")
    first, again, other = (traced(model, noise=noise, seed=seed, samples=2) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first.samples, again.samples)
    np.testing.assert_array_equal(first.corrupt_samples, again.corrupt_samples)
    if noise != "shuffle":
        assert abs(first.samples - other.samples).max() > 1e-5


def test_shuffled_tokens_are_the_subject_in_another_order():
    model = tiny_model("gpt2")
    got = traced(model, noise="shuffle")
    swapped = reference_tracing.probability(model.hf, (5, 13, 9, 2, 44), ANSWER_ID)
    close(got.corrupt_samples, swapped.expand(3))


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_noise_is_added_to_the_embeddings(family):
    model = tiny_model(family)
    random = torch.randn(3, 2, model.d_embed, generator=torch.Generator().manual_seed(7))
    std = float(embedded(model, IDS[slice(*SPAN)]).double().std())
    for noise, scale in (("0.8", 0.8), ("s3", 3 * std)):
        disturbance = [(0, "embed", range(*SPAN), None, "add", random * scale)]
        want = reference_tracing.probability(model.hf, IDS, ANSWER_ID, disturbance, 3)
        close(traced(model, noise=noise).corrupt_samples, want)
        disturbance = [(0, "embed", range(*SPAN), None, "replace", random * scale)]
        want = reference_tracing.probability(model.hf, IDS, ANSWER_ID, disturbance, 3)
        close(traced(model, noise=f"replace:{noise}").corrupt_samples, want)


TWINS = {"subject": ("w5 w30 w31 w2 w44", "w5 w9 w32 w2 w44"), "in front": ("w6 w9 w13 w2 w44",)}


@pytest.mark.parametrize("texts", TWINS.values(), ids=TWINS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_twin_is_the_prompt_in_other_words(family, texts):
    model = tiny_model(family)
    got = traced(model, samples=50, noise=Twin(texts))
    assert got.samples.sizes["sample"] == len(texts)
    for sample, text in enumerate(texts):
        other = tuple(int(word[1:]) for word in text.split())
        want = reference_tracing.probability(model.hf, other, ANSWER_ID)
        close(got.corrupt_samples[sample], want[0])
        for token in range(len(IDS)):
            for layer in range(model.n_layers):
                want = reference_tracing.exchanged_prompt(model.hf, IDS, other, ANSWER_ID, token, layer)
                close(got.samples[token, layer, sample], want[0])
    assert abs(got.effect).max() > 1e-4


@pytest.mark.parametrize("way", WAYS)
def test_a_twin_in_every_way(way):
    model, texts = tiny_model("llama"), TWINS["subject"]
    words = [[int(word[1:]) for word in text.split()] for text in texts]
    values = torch.stack([embedded(model, ids) for ids in words])
    disturbance = [(0, "embed", range(len(IDS)), None, "replace", values)]
    got = traced(model, noise=Twin(texts), **WAYS[way])
    close(got.samples, reference_tracing.trace(model.hf, IDS, disturbance, ANSWER_ID, samples=2, **WAYS[way]))


def test_an_answer_may_be_a_token_id():
    model = tiny_model("gpt2")
    by_id = pp.trace(model, PROMPT, subject=SUBJECT, answer=20, samples=3, seed=7)
    np.testing.assert_array_equal(by_id.samples, traced(model).samples)
    assert by_id.answer_id == 20


def test_standard_errors_are_over_each_sites_own_differences():
    for fresh_noise in (False, True):
        got = traced(tiny_model("gpt2"), noise="s3", samples=4, fresh_noise=fresh_noise)
        differences = np.broadcast_to((got.samples - got.corrupt_samples).values, got.samples.shape)
        close(got.effect_se, differences.std(axis=-1, ddof=1) / 2)


def test_the_model_is_left_as_it_was():
    model = tiny_model("gpt2")
    before = reference.logits(model.hf, IDS)
    for settings in ({"sever": "mlp"}, {"fresh_noise": True}, {"noise": "replace:m"}):
        traced(model, **settings)
    assert torch.equal(reference.logits(model.hf, IDS), before)
