"""Prompts from pairs: aligned twins, answers in context."""

import pytest

import patchpoint as pp
from patchpoint.tasks.subject import SubjectPrompt
from twins import SAME_LENGTH, made_prompts
from words import tiny_model


def pairs(**changes):
    given = {
        "clean": ["w1 w2 w3", "w4 w5"],
        "corrupt": ["w1 w9 w3", "w6 w5"],
        "correct": ["w10", "w20 w30"],
        "incorrect": ["w11", "w20 w31"],
    }
    return pp.Prompts.from_pairs(tiny_model("gpt2"), **{**given, **changes})


def test_leading_tokens_that_answers_share_move_into_the_prompt():
    prompts = pairs()
    assert prompts.clean.tokens == ((1, 2, 3), (4, 5, 20))
    assert prompts.corrupt.tokens == ((1, 9, 3), (6, 5, 20))
    assert prompts.correct_tokens == prompts.clean.correct == (10, 30)
    assert prompts.incorrect_tokens == prompts.clean.incorrect == (11, 31)
    assert prompts.spans == ({"changed": (1, 2)}, {"changed": (0, 1)})
    assert prompts.clean_texts == ("w1 w2 w3", "w4 w5")


def test_prompts_are_swept():
    model, prompts = tiny_model("gpt2"), pairs()
    base, twin = model.run(prompts.clean), model.run(prompts.corrupt)
    everything = [pp.Edit(pp.Site(2, "resid_post"), "replace", twin)]
    swept = pp.sweep(base, [everything], metric="logit_diff").values[0]
    for p in (0, 1):
        logits = twin.logits[p]
        want = logits[prompts.correct_tokens[p]] - logits[prompts.incorrect_tokens[p]]
        assert swept[p] == pytest.approx(want.item(), abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corrupt": ["w1 w9", "w6 w5"]}, "pair 0: the clean prompt has 3 tokens and its corrupted twin 2"),
        ({"corrupt": ["w1 w2 w3", "w6 w5"]}, "pair 0: .* are the same"),
        ({"incorrect": ["w11", "w20 w30"]}, "pair 1: .* no token that tells them apart"),
        ({"correct": ["w10"]}, "need one entry per prompt; got 2 clean, 2 corrupt, 1 correct, 2 incorrect"),
        ({"clean": ["", "w4 w5"]}, "pair 0: the prompt is empty"),
    ],
)
def test_pairs_that_cannot_be_used_are_named(changes, message):
    with pytest.raises(pp.PatchpointError, match=message):
        pairs(**changes)


def test_all_problems_are_reported_at_once():
    with pytest.raises(pp.PatchpointError, match=r"pair 0: .*pair 1: "):
        pairs(corrupt=["w1 w2 w3", "w6"])


def test_a_subject_prompt_knows_its_span():
    prompt = SubjectPrompt.from_text(tiny_model("gpt2"), "w1 w2 w3 w2", subject="w2 w3")
    assert (prompt.ids, prompt.subject_span, prompt.bos) == ((1, 2, 3, 2), (1, 3), False)


def test_prompts_are_chosen_by_number_with_all_that_belongs_to_them(tmp_path):
    prompts = pairs()
    chosen = prompts.at([1, 0, 1])
    for number, place in enumerate((1, 0, 1)):
        for name in ("clean_texts", "corrupt_texts", "correct_tokens", "incorrect_tokens", "spans", "tokens"):
            assert getattr(chosen, name)[number] == getattr(prompts, name)[place], name
        for mine, whole in ((chosen.clean, prompts.clean), (chosen.corrupt, prompts.corrupt)):
            assert mine.tokens[number] == whole.tokens[place]
            assert mine.correct[number] == whole.correct[place]
            assert mine.incorrect[number] == whole.incorrect[place]
    assert (len(chosen), chosen.header, chosen.report) == (3, prompts.header, None)
    chosen.save(tmp_path / "chosen.jsonl")
    assert pp.Prompts.load(tmp_path / "chosen.jsonl", tiny_model("gpt2")).clean_texts == chosen.clean_texts


def test_made_prompts_without_texts_of_tokens_can_be_chosen_from():
    chosen = made_prompts(SAME_LENGTH).at([2])
    assert chosen.clean.tokens == (SAME_LENGTH[2][0],)
    assert (chosen.tokens, chosen.metadata) == ((), ())


@pytest.mark.parametrize("numbers", [[2], [-1], []])
def test_prompts_that_are_not_there_cannot_be_chosen(numbers):
    with pytest.raises(pp.PatchpointError, match=r"no prompt (2|-1); .* 0 to 1|no prompts given"):
        pairs().at(numbers)
