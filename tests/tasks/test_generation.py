"""Screening, balance and the files of prompts, on a task of one-token words and a tiny random model."""

import json
from itertools import count

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import patchpoint as pp
import reference
from made_tokenizers import byte_level
from patchpoint.errors import InvalidArgument, ResultsError, TaskError, UnknownName
from patchpoint.tasks import feasibility
from patchpoint.tasks.balance import balanced
from patchpoint.tasks.case import Case
from patchpoint.tasks.generation import generate_together
from patchpoint.tasks.task import Task
from patchpoint.tasks.template import Template
from words import tiny_model

TEMPLATE = Template("words", "w3 {a} w4 {b} w5")
LONGER = Template("longer", "w3 {a} w4 w4 {b} w5")


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


def words_task(name="words", *, answers=("w50", "w51"), also=((), ()), limit=None, longer_every=0, offset=0):
    def cases(lexicon, corruption, draw):
        for number in count() if limit is None else range(limit):
            a, b, c = (f"w{i + offset}" for i in draw.sample(range(10, 40), 3))
            yield Case(
                template=LONGER if longer_every and number % longer_every == 0 else TEMPLATE,
                clean={"a": a, "b": b},
                corrupt={"a": c, "b": b},
                correct=f" {answers[0]}",
                incorrect=f" {answers[1]}",
                also_correct=tuple(f" {word}" for word in also[0]),
                also_incorrect=tuple(f" {word}" for word in also[1]),
                group=f"group {number % 2}",
                metadata={"number": number},
            )

    return Task(name, "what comes next?", "made up", ("exchanged",), cases)


def logits_of(model, ids):
    return reference.logits(model.hf, ids)[0].double()


def probabilities(model, ids):
    return logits_of(model, ids).softmax(-1)


def test_scores_are_those_of_the_plain_model(model):
    prompts = words_task(also=(("w60", "w61"), ("w70",))).generate(model, 20, screen=False)
    scores, found = prompts.report.scores, 0
    by_text = {text: i for i, text in enumerate(prompts.report.texts)}
    for text, ids in zip(prompts.clean_texts, prompts.clean.tokens, strict=True):
        i, logits = by_text[text], logits_of(model, ids)
        probs = logits.softmax(-1)
        assert scores.prob[i] == pytest.approx(float(probs[[50, 60, 61]].sum()), abs=1e-6)
        assert scores.prob_incorrect[i] == pytest.approx(float(probs[[51, 70]].sum()), abs=1e-6)
        assert scores.logit_diff[i] == pytest.approx(float(logits[50] - logits[51]), abs=1e-5)
        assert scores.rank[i] == int((logits > logits[[50, 60, 61]].max()).sum())
        found += 1
    assert found == 20


def likely(model):
    """Two words of which the model says the first often, and the second sometimes."""
    texts = words_task().generate(model, 60, screen=False)
    tops = [int(logits_of(model, ids).argmax()) for ids in texts.clean.tokens]
    first, second = np.bincount(tops).argsort()[-2:][::-1]
    return f"w{first}", f"w{second}"


def test_screened_prompts_pass_the_rule_and_the_others_do_not(model):
    answers = likely(model)
    prompts = words_task(answers=answers).generate(model, 8, ratio=1.5)
    report, kept = prompts.report, set(prompts.clean_texts)
    right, wrong = (int(answer[1:]) for answer in answers)
    passed = 0
    for n, text in enumerate(report.texts):
        probs = probabilities(model, [int(word[1:]) for word in text.split()])
        rule = bool(probs.argmax() == right and probs[right] > 1.5 * probs[wrong])
        assert bool(report.accepted[n]) == rule
        assert rule or text not in kept
        passed += rule
    assert 0 < passed < report.n_candidates
    assert report.acceptance == passed / report.n_candidates
    assert sum(seen for _, seen in report.by_group().values()) == report.n_candidates
    assert sum(accepted for accepted, _ in report.by_group().values()) == passed


def test_prompts_are_balanced_over_groups_and_the_same_for_one_seed(model):
    task = words_task()
    prompts, again = (task.generate(model, 10, 5, screen=False) for _ in range(2))
    assert sorted(prompts.groups) == ["group 0"] * 5 + ["group 1"] * 5
    assert prompts.clean == again.clean
    assert prompts.metadata == again.metadata
    assert task.generate(model, 10, 6, screen=False).clean != prompts.clean


def test_what_a_model_cannot_do_is_said_with_figures_and_keeps_its_report(model):
    with pytest.raises(
        TaskError, match=r"does too little of words: 0 of \d+ candidates accepted \(0.0%\), 64 asked; "
    ) as e:
        words_task().generate(model, 64, ratio=1e9)
    report = e.value.reports["words"]
    # Given up long before the 1,024 candidates it might have looked at.
    assert report.n_candidates < 256
    assert "accuracy" in str(e.value)
    assert "\n" not in str(e.value)


def test_a_task_with_too_few_different_prompts_says_how_many_there_are(model):
    with pytest.raises(TaskError, match="only 5 different prompts"):
        words_task(limit=5).generate(model, 8, screen=False)


def test_a_task_that_repeats_itself_forever_ends(model):
    def cases(lexicon, corruption, draw):
        while True:
            yield Case(
                template=TEMPLATE,
                clean={"a": "w1", "b": "w2"},
                corrupt={"a": "w6", "b": "w2"},
                correct=" w50",
                incorrect=" w51",
            )

    task = Task("same", "again?", "made up", ("exchanged",), cases)
    with pytest.raises(TaskError, match=r"only 1 different prompts .* the same as an earlier one"):
        task.generate(model, 2, screen=False)


def test_all_prompts_have_the_most_common_length_and_the_others_are_counted(model):
    prompts = words_task(longer_every=3).generate(model, 12, screen=False)
    assert {len(ids) for ids in prompts.clean.tokens} == {5}
    assert prompts.report.dropped["not 5 tokens long as most are"] > 0
    assert "6 tokens" in prompts.report.examples["not 5 tokens long as most are"]


def test_a_resampled_twin_is_another_prompt_of_the_task_with_another_answer(model):
    def cases(lexicon, corruption, draw):
        while True:
            a, b = (f"w{i}" for i in draw.sample(range(10, 40), 2))
            yield Case(
                template=TEMPLATE,
                clean={"a": a, "b": b},
                corrupt={"a": a, "b": "w9"},
                correct=f" {a}",
                incorrect=f" {b}",
                group=a,
            )

    prompts = Task("copy", "first?", "made up", ("exchanged",), cases).generate(
        model, 20, corruption="resampled", screen=False
    )
    for text, twin in zip(prompts.clean_texts, prompts.corrupt_texts, strict=True):
        assert text.split()[1] != twin.split()[1]
        assert twin.split()[3] != "w9"


@pytest.mark.parametrize("order", [("strict", "lenient"), ("lenient", "strict")])
def test_tasks_generated_together_share_their_draws_and_all_pass(model, order):
    right, wrong = likely(model)
    anything = [f"w{i}" for i in range(97) if f"w{i}" not in (right, wrong)]
    tasks = {
        "strict": words_task("strict", answers=(right, wrong)),
        "lenient": words_task("lenient", answers=(right, wrong), offset=40, also=(anything, ())),
    }
    found = generate_together([tasks[name] for name in order], model, 6, ratio=1.2, candidates=400)
    assert list(found) == list(order)
    strict, lenient = found["strict"], found["lenient"]
    for mine, other in zip(strict.clean.tokens, lenient.clean.tokens, strict=True):
        assert tuple(i + 40 * (p in (1, 3)) for p, i in enumerate(mine)) == other
        assert int(logits_of(model, mine).argmax()) == int(right[1:])
    assert (strict.report.accepted == lenient.report.accepted).all()
    assert lenient.report.accuracy > 2 * strict.report.acceptance


def test_tasks_that_leave_out_other_draws_stay_in_step(model):
    def leaving_out(name, every):
        def cases(lexicon, corruption, draw):
            for number in count():
                a, b, c = (f"w{i}" for i in draw.sample(range(10, 40), 3))
                if number % every:
                    yield Case(
                        template=TEMPLATE,
                        clean={"a": a, "b": b},
                        corrupt={"a": c, "b": b},
                        correct=" w50",
                        incorrect=" w51",
                        number=number,
                    )

        return Task(name, "what comes next?", "made up", ("exchanged",), cases)

    found = generate_together([leaving_out("one", 2), leaving_out("two", 3)], model, 20, screen=False)
    assert found["one"].clean == found["two"].clean


def test_a_bos_token_that_is_not_there_is_refused(model):
    with pytest.raises(pp.PatchpointError, match="has no BOS token"):
        words_task().generate(model, 2, bos=True)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n": 0}, InvalidArgument, "n must be at least 1"),
        ({"n": 8, "candidates": 7}, InvalidArgument, "candidates must be at least n"),
        ({"ratio": 0}, InvalidArgument, "ratio must be a positive number"),
        ({"ratio": float("nan")}, InvalidArgument, "ratio must be a positive number"),
        ({"corruption": "exchange"}, UnknownName, "did you mean exchanged"),
    ],
)
def test_bad_requests_are_refused(model, arguments, error, message):
    with pytest.raises(error, match=message):
        words_task().generate(model, **{"n": 4, **arguments})


def test_unknown_tasks_and_settings_are_named():
    with pytest.raises(UnknownName, match="did you mean ioi"):
        pp.task("io")
    with pytest.raises(UnknownName, match="unknown setting of ioi 'colour'"):
        pp.task("ioi", colour="red")


def test_prompts_come_back_from_their_file(model, tmp_path):
    prompts = words_task(also=(("w60",), ())).generate(model, 7, 3, screen=False)
    prompts.save(tmp_path / "deep" / "prompts.jsonl")
    back = pp.Prompts.load(tmp_path / "deep" / "prompts.jsonl", model)
    for name in (
        *("clean_texts", "corrupt_texts", "clean", "corrupt", "correct_tokens", "incorrect_tokens", "spans"),
        *("corrupted_roles", "correct_texts", "incorrect_texts", "correct_sets", "incorrect_sets"),
        *("tokens", "corrupt_tokens", "groups", "metadata", "header"),
    ):
        assert getattr(back, name) == getattr(prompts, name), name
    assert (back.header.task, back.header.corruption, back.header.seed) == ("words", "exchanged", 3)


def test_r55_prompts_of_another_tokenizer_are_refused(model, tmp_path):
    words_task().generate(model, 2, screen=False).save(tmp_path / "prompts.jsonl")
    other = pp.Model(model.hf, byte_level(n=97 + 200), model.adapter, "other")
    with pytest.raises(ResultsError, match="whose tokenizer is another than that of other"):
        pp.Prompts.load(tmp_path / "prompts.jsonl", other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [], "its first line is no header"),
        (lambda lines: lines[1:], "its first line is no header"),
        (lambda lines: lines[:1], "holds no prompts"),
        (lambda lines: [lines[0], "{"], "line 2: "),
        (lambda lines: [lines[0], lines[1].replace('"group"', '"team"')], "line 2: group: Field required"),
        (lambda lines: [lines[0], _edited(lines[1], clean_ids=[1])], "line 2: .* the same number of tokens"),
        (lambda lines: [lines[0], _edited(lines[1], spans={"a": [0, 99]})], "line 2: a span is outside"),
        (lambda lines: [lines[0], _edited(lines[1], correct_set=[])], "line 2: correct_set"),
    ],
)
def test_damaged_files_are_refused_with_their_line(model, tmp_path, change, message):
    path = tmp_path / "prompts.jsonl"
    words_task().generate(model, 2, screen=False).save(path)
    path.write_text("\n".join(change(path.read_text().splitlines())))
    with pytest.raises(ResultsError, match=message):
        pp.Prompts.load(path, model)


def _edited(line, **changes):
    return json.dumps({**json.loads(line), **changes})


def test_files_that_cannot_be_read_or_written_are_named(model, tmp_path):
    with pytest.raises(ResultsError, match="cannot read"):
        pp.Prompts.load(tmp_path / "none.jsonl", model)
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match="cannot write"):
        words_task().generate(model, 2, screen=False).save(tmp_path / "file" / "prompts.jsonl")


def test_prob_diff_is_what_sets_of_answers_are_scored_by(model):
    prompts = words_task(also=(("w60",), ("w70", "w71"))).generate(model, 3, screen=False)
    run = model.run(prompts.clean)
    swept = pp.sweep(run, [[pp.Edit(pp.Site(0, "mlp_out"), "scale", 1.0)]], metric=prompts.prob_diff).values[
        0
    ]
    for got, ids in zip(swept, prompts.clean.tokens, strict=True):
        probs = probabilities(model, ids)
        assert got == pytest.approx(float(probs[[50, 60]].sum() - probs[[51, 70, 71]].sum()), abs=1e-6)


@given(st.lists(st.sampled_from("abcd"), max_size=40), st.integers(1, 40))
def test_balance_is_as_equal_as_it_can_be(groups, n):
    chosen = balanced(groups, n)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(n, len(groups))
    have = {group: groups.count(group) for group in set(groups)}
    taken = {group: sum(groups[i] == group for i in chosen) for group in have}
    for group, number in taken.items():
        # A group that has fewer than another has given all of its own, or one less because of the remainder.
        assert number == have[group] or number >= max(taken.values()) - 1


def test_feasibility_is_that_of_the_plain_model(model):
    answers = likely(model)
    task = words_task(answers=(f"{answers[0]} w7", answers[1]))
    found = feasibility.check(task, model, 16, seed=2)
    prompts = task.generate(model, 16, 2, screen=False, candidates=16)
    right = int(answers[0][1:])
    tops, probs, whole, diffs = [], [], [], []
    for ids in prompts.clean.tokens:
        logits = logits_of(model, ids)
        tops.append(int(logits.argmax()) == right)
        probs.append(float(logits.softmax(-1)[right]))
        whole.append(probs[-1] * float(probabilities(model, (*ids, right))[7]))
        diffs.append(float(logits[right] - logits[int(answers[1][1:])]))
    assert found.n == 16
    assert found.accuracy == pytest.approx(np.mean(tops))
    assert found.prob == pytest.approx(np.mean(probs), abs=1e-6)
    assert found.sampled == pytest.approx(np.mean(whole), abs=1e-6)
    assert found.logit_diff == pytest.approx(np.mean(diffs), abs=1e-5)
    assert found.logit_diff_high - found.logit_diff == pytest.approx(
        1.959964 * np.std(diffs, ddof=1) / 4, rel=1e-4
    )


def test_the_interval_of_a_share_is_wilsons():
    # Worked by hand for 8 of 10: (0.8 + 0.19207 -+ 1.96 sqrt(0.016 + 0.0096)) / 1.38415.
    low, high = feasibility.wilson(8, 10)
    assert (low, high) == pytest.approx((0.49016, 0.94331), abs=2e-5)


def test_shared_tokens_count_for_a_whole_answer(model):
    task = words_task(answers=("w7 w50", "w7 w51"))
    found = feasibility.check(task, model, 6)
    prompts = task.generate(model, 6, screen=False, candidates=6)
    whole = [
        float(probabilities(model, ids[:-1])[7] * probabilities(model, ids)[50])
        for ids in prompts.clean.tokens
    ]
    assert {ids[-1] for ids in prompts.clean.tokens} == {7}
    assert found.sampled == pytest.approx(np.mean(whole), abs=1e-6)


def test_a_task_that_fits_no_prompt_is_reported_and_not_an_error(model):
    found = feasibility.check(words_task(answers=("w50", "w50 w51")), model, 4)
    assert found.n == 0
    assert "told apart" in found.reason
    assert np.isnan(found.accuracy)


def test_generation_leaves_no_gradients(model):
    prompts = words_task().generate(model, 4, screen=False)
    assert not torch.is_grad_enabled() or model.run(prompts.clean).logits.grad_fn is None
