"""What every task keeps, whatever the tokenizer: twins, spans and answers that are what they say."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchpoint.errors import TaskError
from patchpoint.tasks.catalogue import CHECKED, TASKS, task
from patchpoint.tasks.resampling import RESAMPLED
from task_promises import hold
from task_tokenizers import KINDS, model_for

N, FEW = 12, 4
ENTRIES = [(name, tuple(sorted(chosen.items()))) for name, chosen in CHECKED]
IDS = [" ".join([name, *(f"{key}={value}" for key, value in chosen)]) for name, chosen in ENTRIES]


def some(found, model, corruption):
    """N prompts, or all where a task has fewer."""
    try:
        return found.generate(model, N, corruption=corruption, screen=False)
    except TaskError as error:
        few = error.reports[found.name].n_candidates
    return found.generate(model, few, corruption=corruption, screen=False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "chosen"), ENTRIES, ids=IDS)
def test_every_task_is_well_aligned_for_both_kinds_of_tokenizers(kind, name, chosen):
    model, found = model_for(kind, name, chosen), task(name, **dict(chosen))
    for corruption in (*found.corruptions, RESAMPLED):
        prompts = some(found, model, corruption)
        assert len(prompts) >= FEW
        hold(model, prompts)
        again = found.generate(model, len(prompts), corruption=corruption, screen=False)
        assert again.clean == prompts.clean
        assert again.corrupt == prompts.corrupt


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(sorted(KINDS)),
    st.sampled_from(ENTRIES),
    st.integers(0, 2**32),
    st.integers(0, 3),
)
def test_no_seed_breaks_a_promise(kind, entry, seed, corruption):
    name, chosen = entry
    model, found = model_for(kind, name, chosen), task(name, **dict(chosen))
    known = (*found.corruptions, RESAMPLED)
    prompts = found.generate(model, 4, seed, corruption=known[corruption % len(known)], screen=False)
    hold(model, prompts)


@pytest.mark.parametrize("name", TASKS)
def test_every_task_says_what_it_is(name):
    if name == "custom":
        return
    found = task(name)
    assert found.name == name
    assert found.question
    assert found.source
    assert TASKS[name].__doc__
