"""Every kind of corruption: its text, its numbers, and what a run makes of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import patchpoint as pp
import reference
from made_tokenizers import byte_level
from patchpoint.engine import Batch
from patchpoint.engine.sweep import base_values
from patchpoint.errors import InvalidArgument, PromptError
from patchpoint.tasks.subject import SubjectPrompt
from patchpoint.tracing.corruption import (
    Corruption,
    Gaussian,
    Given,
    Replaced,
    Scaled,
    Shuffled,
    Twin,
    Uniform,
    corruptor_of,
)
from words import tiny_model

PROMPT, SUBJECT = "w5 w9 w13 w21 w2 w44 w7", "w9 w13 w21"
IDS, SPAN = (5, 9, 13, 21, 2, 44, 7), (1, 4)
FAMILIES = ("gpt2", "llama", "gpt_neox", "opt-projected")
MODELS = {
    **{name: tiny_model(name) for name in FAMILIES[:3]},
    "opt-projected": tiny_model("opt", word_embed_proj_dim=20),
}
TWIN = Twin(("w5 w9 w14 w21 w2 w44 w7", "w6 w9 w13 w21 w2 w44 w7"))
KINDS = ["s3", 0.4, "u0.9", "m", "t3", "replace:s2", "replace:u1", "replace:m", "replace:t4", "shuffle", TWIN]
OTHERS = [("w3 w1 w4 w8", "w1 w4"), ("w60 w61 w3", "w60")]


def prompt_of(model, text=PROMPT, subject=SUBJECT):
    return SubjectPrompt.from_text(model, text, subject=subject)


def table(model):
    return model.hf.get_input_embeddings().weight.detach()


def drawn(noise, samples=3, seed=0, model=MODELS["gpt2"], prompt=None):
    return corruptor_of(noise).drawn(model, prompt or prompt_of(model), samples, seed)


@pytest.mark.parametrize("noise", KINDS, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_corrupted_run_is_that_of_the_hooks(family, noise):
    model = MODELS[family]
    corruption = drawn(noise, model=model)
    samples = len(corruption.values)
    batch = Batch((IDS,), (20,)).repeat(samples)
    got = base_values(model.run(batch, edits=[corruption.edit]), "prob")
    edit = (0, "embed", corruption.positions, None, corruption.op, corruption.values)
    want = reference.read(reference.logits(model.hf, IDS, [edit], samples), "prob", 20)
    np.testing.assert_allclose(got, want, atol=1e-6)
    clean = reference.read(reference.logits(model.hf, IDS), "prob", 20)
    assert abs(got - clean).max() > 1e-4, "a corruption that does nothing would pass unseen"


@pytest.mark.parametrize("noise", KINDS, ids=str)
def test_what_is_changed_where(noise):
    corruption = drawn(noise)
    replaces = isinstance(noise, Twin) or str(noise).startswith(("replace", "shuffle"))
    assert corruption.op == ("replace" if replaces else "add")
    assert corruption.positions == ((0, 2) if isinstance(noise, Twin) else (1, 2, 3))
    assert corruption.values.dtype == torch.float32
    assert corruption.text == corruptor_of(noise).text == ("twin" if isinstance(noise, Twin) else str(noise))


def test_gaussian_noise_of_a_seed_is_what_it_always_was():
    for noise, std in (
        ("0.3", 0.3),
        (0.3, 0.3),
        ("s3", 3 * float(table(MODELS["gpt2"])[9:10].double().std())),
    ):
        one = prompt_of(MODELS["gpt2"], subject="w9")
        want = torch.randn(4, 1, 32, generator=torch.Generator().manual_seed(7)) * std
        got = drawn(noise, samples=4, seed=7, prompt=one)
        assert torch.equal(got.values, want)
        assert got.std == std


@pytest.mark.parametrize("noise", [noise for noise in KINDS if noise is not TWIN])
def test_draws_come_from_the_seed_alone(noise):
    first, again, other = (drawn(noise, samples=8, seed=seed).values for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("noise", KINDS, ids=str)
def test_draws_are_the_same_in_another_number_format(noise):
    wide = MODELS["gpt2"]
    half = pp.load(tiny_model("gpt2").hf.to(torch.bfloat16), tokenizer=wide.tokenizer)
    exact = pp.load(tiny_model("gpt2").hf.to(torch.bfloat16).float(), tokenizer=wide.tokenizer)
    assert torch.equal(drawn(noise, model=half).values, drawn(noise, model=exact).values)


def test_relative_noise_is_measured_over_the_subjects_of_all_prompts():
    model = MODELS["llama"]
    prompts = [prompt_of(model), *(prompt_of(model, *other) for other in OTHERS)]
    subjects = table(model)[[9, 13, 21, 1, 4, 60]].double()
    fitted = corruptor_of("s2").fitted(model, iter(prompts))
    assert fitted.drawn(model, prompts[0], 2, 0).std == pytest.approx(2 * float(subjects.std()), rel=1e-12)
    assert fitted.text == "s2"
    alone = corruptor_of("s2").drawn(model, prompts[0], 2, 0).std
    assert alone == pytest.approx(2 * float(subjects[:3].std()), rel=1e-12)
    inside = Replaced(Scaled(2.0)).fitted(model, prompts).drawn(model, prompts[0], 2, 0)
    assert (inside.std, inside.op) == (fitted.drawn(model, prompts[0], 2, 0).std, "replace")
    assert Scaled(2.0).fitted(model, []) == Scaled(2.0)


def test_what_is_absolute_is_not_fitted():
    model = MODELS["gpt2"]
    for noise in (Gaussian(0.1), Uniform(0.1), Shuffled(), TWIN, Given(torch.zeros(1, 3, 32))):
        assert noise.fitted(model, [prompt_of(model)]) is noise


def test_noise_instead_of_the_embedding_has_the_numbers_that_would_be_added():
    for noise in ("s3", "0.2", "u1", "m", "t3"):
        instead = drawn(f"replace:{noise}")
        assert torch.equal(instead.values, drawn(noise).values)
        assert instead.std == drawn(noise).std


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.integers(-5, 2**64 - 1))
def test_a_shuffle_permutes_and_never_leaves_the_subject_as_it_was(ids, seed):
    model = MODELS["gpt2"]
    text = " ".join(f"w{i}" for i in ids)
    prompt = prompt_of(model, f"w90 {text} w91", text)
    if len(set(ids)) == 1:
        with pytest.raises(PromptError, match=r"one token|all the same"):
            Shuffled().drawn(model, prompt, 5, seed)
        return
    values = Shuffled().drawn(model, prompt, 5, seed).values
    embed = table(model)[ids]
    for sample in values:
        found = [int((table(model) == row).all(1).nonzero()) for row in sample]
        assert sorted(found) == sorted(ids)
        assert found != ids
    assert values.shape == (5, *embed.shape)


def test_samples_are_shuffled_each_in_its_own_way():
    values = drawn("shuffle", samples=40).values
    assert len({tuple(sample.flatten().tolist()) for sample in values}) == 5, "3! orders without the first"


def test_a_twin_takes_its_own_words_wherever_any_twin_differs():
    model = MODELS["llama"]
    corruption = drawn(TWIN, model=model)
    want = table(model)[torch.tensor([[5, 14], [6, 13]])]
    assert corruption.positions == (0, 2)
    assert torch.equal(corruption.values, want)
    assert corruption.std is None


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_a_twin_run_is_the_run_of_its_text(family):
    model = MODELS[family]
    longer = prompt_of(model).continued(model, (30, 31))
    corruption = TWIN.drawn(model, longer, 1, 0)
    batch = Batch((longer.ids,)).repeat(2)
    got = model.run(batch, edits=[corruption.edit]).logits
    for row, text in enumerate(TWIN.texts):
        ids = [int(word[1:]) for word in text.split()]
        np.testing.assert_allclose(got[row], reference.logits(model.hf, (*ids, 30, 31))[0], atol=1e-5)


def test_a_twin_is_tokenised_with_the_bos_token_of_the_prompt():
    model = replace(MODELS["gpt2"], tokenizer=byte_level(n=300))
    prompt = SubjectPrompt.from_text(model, "ab cd", subject="cd", bos=True)
    assert prompt.ids[0] == 0
    last = prompt.ids[-1]
    corruption = Twin(("ab ce",)).drawn(model, prompt, 1, 0)
    assert corruption.positions == (len(prompt.ids) - 1,)
    assert not torch.equal(corruption.values[0, 0], table(model)[last])


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("w5 w9 w2 w44 w7",), r"have its 7 tokens .* but 'w5 w9 w2 w44 w7' has 5 tokens; give other words"),
        ((PROMPT,), "is the prompt itself"),
        ((*TWIN.texts, "w1", PROMPT), "'w1' has 1 tokens; .*is the prompt itself"),
        (("",), "empty"),
        ((3,), "must be a string"),
    ],
)
def test_twins_that_do_not_fit_are_named(texts, message):
    with pytest.raises(pp.PatchpointError, match=message):
        drawn(Twin(texts))


@pytest.mark.parametrize("texts", [(), "w1 w2"])
def test_a_twin_needs_a_tuple_of_texts(texts):
    with pytest.raises(InvalidArgument, match="needs a tuple of texts"):
        Twin(texts)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.zeros(2, 2, 32), r"shape \(2, 2, 32\); expected \[samples, 3 subject tokens, 32\]"),
        (torch.full((1, 3, 32), float("nan")), "finite"),
        (np.zeros((1, 3, 32), dtype=int), "floating-point"),
        (np.zeros(3), "shape"),
    ],
)
def test_given_noise_is_checked(values, message):
    with pytest.raises(InvalidArgument, match=message):
        drawn(values)


def test_given_noise_is_added_as_it_is_whatever_becomes_of_the_array():
    array = np.ones((2, 3, 32), dtype=np.float32)[:, ::-1]
    corruptor = corruptor_of(array)
    array[:] = 5
    corruption = corruptor.drawn(MODELS["gpt2"], prompt_of(MODELS["gpt2"]), 10, 0)
    assert (corruption.op, corruption.text, corruption.std) == ("add", "given", None)
    assert torch.equal(corruption.values, torch.ones(2, 3, 32))
    instead = Replaced(corruptor).drawn(MODELS["gpt2"], prompt_of(MODELS["gpt2"]), 10, 0)
    assert (instead.op, instead.text) == ("replace", "replace:given")


@pytest.mark.parametrize(
    ("noise", "changes", "message"),
    [
        ("s3", {"samples": 0}, "samples must be at least 1"),
        ("shuffle", {"samples": 0}, "samples must be at least 1"),
        ("s3", {"seed": 2**70}, "seed .* is no whole number"),
        ("t3", {"seed": "a"}, "seed 'a' is no whole number"),
        ("1e60", {}, "noise 1e.60 has numbers that float32 cannot hold"),
    ],
)
def test_draws_that_cannot_be_made(noise, changes, message):
    with pytest.raises(InvalidArgument, match=message):
        drawn(noise, **changes)


def test_noise_beyond_a_narrow_number_format_is_refused():
    half = pp.load(tiny_model("gpt2").hf.half(), tokenizer=MODELS["gpt2"].tokenizer)
    with pytest.raises(InvalidArgument, match="float16 cannot hold"):
        drawn("1e6", model=half)


def test_a_covariance_needs_two_tokens():
    model = MODELS["gpt2"]
    for noise in ("m", "t3"):
        with pytest.raises(PromptError, match="at least 2 tokens, the prompts have 1"):
            drawn(noise, prompt=prompt_of(model, "w1", "w1"))


@pytest.mark.parametrize(("positions", "shape"), [((1, 2), (3, 1, 4)), ((), (3, 0, 4)), ((1,), (0, 1, 4))])
def test_a_corruption_has_values_for_its_tokens(positions, shape):
    with pytest.raises(InvalidArgument, match="has values of shape"):
        Corruption(positions, "add", torch.zeros(shape), None, "")
