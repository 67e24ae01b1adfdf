"""Tasks on SmolLM2-135M: what the model can do gives screened prompts, what it cannot is said with figures."""

import pytest

import patchpoint as pp
from patchpoint.errors import ModelError, TaskError
from patchpoint.tasks.catalogue import TASKS, task
from task_promises import hold

N, CANDIDATES = 4, 16
CANNOT = "spanish-months"


@pytest.fixture(scope="module")
def model():
    try:
        return pp.load("smollm2-135m", device="cpu")
    except ModelError as error:
        pytest.skip(f"SmolLM2-135M cannot be had here: {error}")


def screened(model, name):
    """Prompts that the model answers, as many as the test can wait for."""
    return task(name).generate(model, N, candidates=CANDIDATES)


@pytest.mark.real
@pytest.mark.parametrize("name", [name for name in TASKS if name not in ("custom", CANNOT)])
def test_every_task_gives_prompts_that_the_model_answers(model, name):
    prompts = screened(model, name)
    hold(model, prompts)
    logits = model.run(prompts.clean, keep=()).logits
    top = logits.argmax(-1).tolist()
    assert all(token in right for token, right in zip(top, prompts.correct_sets, strict=True))
    for row, right, wrong in zip(
        logits.softmax(-1), prompts.correct_sets, prompts.incorrect_sets, strict=True
    ):
        assert row[list(right)].sum() > 2 * row[list(wrong)].sum()


@pytest.mark.real
def test_what_the_model_cannot_do_is_said_with_figures(model):
    with pytest.raises(TaskError, match=r"0 of \d+ candidates accepted \(0.0%\).*mean logit difference"):
        screened(model, CANNOT)
