"""Causal tracing on the real model over real facts, against the hook loop."""

from pathlib import Path

import numpy as np
import pytest
import torch

import patchpoint as pp
import reference
from patchpoint.errors import ModelError
from patchpoint.models.tokens import answer_ids
from patchpoint.tasks.facts import read_facts
from patchpoint.tracing.noise import gaussian

KNOWN = Path(__file__).parents[3] / "shared" / "data" / "known_1000.json"
N_FACTS, SAMPLES = 20, 2


@pytest.fixture(scope="module")
def model():
    try:
        return pp.load("smollm2-135m", device="cpu")
    except ModelError as error:
        pytest.skip(f"SmolLM2-135M cannot be had here: {error}")


@pytest.fixture(scope="module")
def facts(model):
    """The first facts that the model answers, in prompts of at most 12 tokens."""
    if not KNOWN.exists():
        pytest.skip(f"known_1000 is not at {KNOWN}")
    found = []
    for fact in read_facts(KNOWN).facts:
        run = model.run(fact.prompt, keep=())
        answer = answer_ids(model.tokenizer, fact.prompt, fact.attribute).ids[0]
        if int(run.logits[0].argmax()) == answer and run.packing.n_rows <= 12:
            found.append(fact)
        if len(found) == N_FACTS:
            return found
    raise AssertionError(f"the model answers {len(found)} facts only")


@pytest.mark.real
@pytest.mark.slow
def test_twenty_known_facts_equal_the_hook_loop(model, facts):
    """A spread of sites of each fact: the last subject token, the token behind it and the final one."""
    for number, fact in enumerate(facts):
        state = ("resid", "mlp", "attn")[number % 3]
        direction = ("restore", "corrupt")[number % 2]
        t = pp.trace(
            model,
            fact.prompt,
            subject=fact.subject,
            answer=fact.attribute,
            samples=SAMPLES,
            state=state,
            direction=direction,
        )
        start, stop = t.subject_span
        last = len(t.tokens) - 1
        layers = [(number * 7 + k) % 30 for k in (0, 11, 20, 29)]
        sites = {(token, layer) for token in (stop - 1, min(stop, last), last) for layer in layers}
        noise = gaussian(SAMPLES, stop - start, model.d_model, t.noise_std, 0)
        want = reference.trace(
            model.hf,
            t.prompt.ids,
            t.subject_span,
            noise,
            t.answer_id,
            state=state,
            direction=direction,
            sites=sites,
        )
        for (token, layer), values in want.items():
            np.testing.assert_allclose(
                t.samples[token, layer], values, atol=1e-5, err_msg=f"{fact} {token} {layer}"
            )


@pytest.mark.real
def test_the_eiffel_tower_is_found_where_it_was_found_before(model):
    t = pp.trace(model, "The Eiffel Tower is in the city of", subject="The Eiffel Tower", samples=3)
    assert t.answer == " Paris"
    assert t.p_clean == pytest.approx(0.6562, abs=1e-4)
    effect = t.effect.values
    early = effect[t.subject_span[0] : t.subject_span[1], :15]
    assert np.unravel_index(early.argmax(), early.shape)[0] == 2, "the early site is at the token iffel"
    assert effect[-1].argmax() >= 20, "the late site is at the final token's last layers"
    assert torch.isfinite(torch.tensor(effect)).all()
