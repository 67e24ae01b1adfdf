"""Prompts of one's own: pairs and templates become cases that say exactly where twins differ and what is right."""

import csv
import json
from collections import Counter
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from patchpoint.errors import InvalidArgument, PromptError, TaskError, UnknownName
from patchpoint.tasks.kinds.custom import custom
from patchpoint.tasks.kinds.differences import differing
from patchpoint.tasks.lexicon import Lexicon
from words import tiny_model, word_tokenizer


def written(tmp_path, rows, name="rows.jsonl"):
    path = tmp_path / name
    if name.endswith(".csv"):
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def cases_of(task, seed=0, corruption=None):
    return list(task.cases(Lexicon(word_tokenizer()), task.corruption(corruption), Random(seed)))


def texts(case):
    return tuple(case.template.fill(values).text for values in (case.clean, case.corrupt))


PAIRS = [
    {
        "clean": f"w1 w2 w{i} w3 w4",
        "corrupt": f"w1 w2 w{i + 10} w3 w5",
        "correct": f"w{i + 40}",
        "incorrect": " w96",
        "group": "ab"[i % 2],
        "number": i,
    }
    for i in range(10, 30)
]


def test_pairs_are_taken_as_they_are(tmp_path):
    task = custom(file=written(tmp_path, PAIRS, "pairs.csv"))
    found = {texts(case): case for case in cases_of(task)}
    assert set(found) == {(row["clean"], row["corrupt"]) for row in PAIRS}
    for row in PAIRS:
        case = found[row["clean"], row["corrupt"]]
        assert (case.correct, case.incorrect) == (f" {row['correct']}", " w96")
        assert case.template.text == "w1 w2 {difference} w3 {difference2}"
        assert case.clean == {"difference": row["clean"].split()[2], "difference2": "w4"}
        assert case.corrupt == {"difference": row["corrupt"].split()[2], "difference2": "w5"}
        assert (case.group, case.metadata) == (row["group"], {"number": str(row["number"])})
    assert (task.name, task.corruptions) == ("custom file='pairs.csv'", ("pair",))


def test_groups_come_in_turn_and_the_seed_makes_the_order(tmp_path):
    task = custom(file=written(tmp_path, PAIRS))
    one, two, other = (cases_of(task, seed) for seed in (0, 0, 1))
    assert one == two
    assert [texts(case) for case in one] != [texts(case) for case in other]
    assert all({a.group, b.group} == {"a", "b"} for a, b in zip(one[::2], one[1::2], strict=True))


def test_pairs_in_tokens_say_where_they_differ(tmp_path):
    prompts = custom(file=written(tmp_path, PAIRS)).generate(tiny_model("llama"), 8, screen=False)
    for n, (clean, corrupt) in enumerate(zip(prompts.clean.tokens, prompts.corrupt.tokens, strict=True)):
        assert [p for p, (a, b) in enumerate(zip(clean, corrupt, strict=True)) if a != b] == [2, 4]
        assert dict(prompts.spans[n]) == {"changed": (2, 5), "difference": (2, 3), "difference2": (4, 5)}


def test_without_corrupted_texts_twins_are_other_rows(tmp_path):
    rows = [{"clean": row["clean"], "correct": row["correct"]} for row in PAIRS]
    task = custom(file=written(tmp_path, rows))
    assert task.corruptions == ()
    prompts = task.generate(tiny_model("llama"), 8, screen=False)
    answer = {row["clean"]: f" w{int(row['correct'][1:])}" for row in rows}
    for clean, corrupt, right, wrong in zip(
        prompts.clean_texts,
        prompts.corrupt_texts,
        prompts.correct_texts,
        prompts.incorrect_texts,
        strict=True,
    ):
        assert right == answer[clean]
        assert answer[corrupt] != right
        assert wrong in set(answer.values()) - {right}


def test_prompts_that_were_saved_come_back(tmp_path):
    model = tiny_model("llama")
    first = custom(file=written(tmp_path, PAIRS)).generate(model, len(PAIRS), screen=False)
    first.save(tmp_path / "saved.jsonl")
    again = custom(file=tmp_path / "saved.jsonl").generate(model, len(PAIRS), screen=False)
    columns = ("clean_texts", "corrupt_texts", "correct_texts", "incorrect_texts", "groups")
    rows, others = (set(zip(*(getattr(p, c) for c in columns), strict=True)) for p in (first, again))
    assert rows == others
    assert {data["number"] for data in again.metadata} == {row["number"] for row in PAIRS}


word = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)
pieces = st.lists(word, min_size=1, max_size=6)


@example(["0 "], ["0", "0"], " ")
@given(pieces, pieces, st.sampled_from([" ", "  ", "\n"]))
def test_a_template_of_two_texts_makes_both(mine, others, space):
    clean, corrupt = space.join(mine), space.join(others)
    if clean == corrupt or not clean.strip() or not corrupt.strip():
        return
    template, values, twins = differing(clean, corrupt)
    assert template.fill(values).text == clean
    assert template.fill(twins).text == corrupt
    assert all(values[slot] != twins[slot] for slot in template.slots)


@pytest.mark.parametrize(
    ("clean", "corrupt", "template"),
    [
        ("When A and B met", "When B and A met", "When {difference} and {difference2} met"),
        ("In {x} it is", "In {y} it is", "In {difference} it is"),
        ("a {b} c", "a {b} d", "a {{b}} {difference}"),
        ("I saw New York today", "I saw Paris today", "I saw {difference} today"),
        ("so it is", "it is", "{difference} is"),
        ("it is so", "it is", "it {difference}"),
        ("a a", "a", "{difference}"),
        ("one", "two", "{difference}"),
    ],
)
def test_differences_are_words(clean, corrupt, template):
    assert differing(clean, corrupt)[0].text == template


ROWS = [
    {"country": f"w{i}", "capital": f"w{i + 20}", "tail": f"w{i % 3}", "group": f"g{i % 2}"}
    for i in range(10, 18)
]
CAPITAL = {row["country"]: f" {row['capital']}" for row in ROWS}


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_rows_fill_the_slots_of_a_template(tmp_path, name):
    task = custom(file=written(tmp_path, ROWS, name), template="w5 {country} w6 {tail} ", correct="{capital}")
    found = cases_of(task)
    assert len(found) == len(ROWS)
    by_country = {row["country"]: row for row in ROWS}
    for case in found:
        row, twin = by_country[case.clean["country"]], by_country[case.corrupt["country"]]
        assert case.clean == {slot: row[slot] for slot in ("country", "tail")}
        assert case.corrupt == {slot: twin[slot] for slot in ("country", "tail")}
        assert (case.correct, case.incorrect) == (f" {row['capital']}", f" {twin['capital']}")
        assert case.group == row["group"]
        assert texts(case)[0] == f"w5 {row['country']} w6 {row['tail']}"
    assert task.corruptions == ("slots",)
    assert cases_of(task) == found != cases_of(task, seed=1)


def test_only_the_slots_that_vary_change(tmp_path):
    file = written(tmp_path, ROWS)
    for case in cases_of(
        custom(file=file, template="{tail} w5 {country}", correct="{capital}", vary=["country"])
    ):
        assert case.corrupt["tail"] == case.clean["tail"]
        assert case.incorrect == CAPITAL[case.corrupt["country"]] != case.correct
    for case in cases_of(
        custom(file=file, template="{tail} w5 {country}", correct="{capital}", incorrect="w{tail}")
    ):
        assert case.incorrect == f" w{case.clean['tail']}"


def test_twins_never_share_the_answer_and_odd_rows_are_left_out(tmp_path):
    rows = [{**row, "capital": "w1" if n % 4 else "w2"} for n, row in enumerate(ROWS)]
    odd = {**ROWS[0], "country": "w1 w2", "capital": "w3"}
    task = custom(file=written(tmp_path, [*rows, odd]), template="w5 {country}", correct="{capital}")
    found = cases_of(task)
    assert len(found) == len(ROWS)
    assert {case.correct for case in found} == {" w1", " w2"}
    assert {frozenset({case.correct, case.incorrect}) for case in found} == {frozenset({" w1", " w2"})}


def test_words_of_slots_are_combined(tmp_path):
    slots = {"a": ["w1", "w2", "w3"], "b": ["w4", "w5"]}
    found = cases_of(custom(template="{a} w9 {b} w9 {a}", slots=slots, correct="{a}"))
    assert {(case.clean["a"], case.clean["b"]) for case in found} == {
        (a, b) for a in slots["a"] for b in slots["b"]
    }
    assert len(found) == 6
    for case in found:
        assert case.correct == f" {case.clean['a']}"
        assert case.incorrect == f" {case.corrupt['a']}" != case.correct
        assert case.corrupt["b"] != case.clean["b"]
    one = custom(template="{a} w9 {b}", slots=slots, correct="{b}", vary=("b",))
    assert all(case.corrupt["a"] == case.clean["a"] for case in cases_of(one))
    fixed = custom(template="{a} w9 {b}", slots=slots, correct="w7", incorrect="w8")
    assert {(case.correct, case.incorrect) for case in cases_of(fixed)} == {(" w7", " w8")}


def test_very_many_combinations_are_drawn():
    slots = {f"s{i}": [f"w{j}" for j in range(90)] for i in range(12)}
    task = custom(template=" ".join(f"{{{slot}}}" for slot in slots), slots=slots, correct="{s3}")
    found = [
        case
        for case, _ in zip(
            task.cases(Lexicon(word_tokenizer()), "slots", Random(0)), range(400), strict=False
        )
    ]
    assert len({texts(case)[0] for case in found}) == 400
    counts = Counter(case.clean["s11"] for case in found)
    assert len(counts) > 60


def test_words_of_unusual_length_are_left_out_and_told():
    slots = {"a": ["w1", "w2 w3", "w4", "w5"], "b": ["w6", "w7"]}
    lexicon = Lexicon(word_tokenizer())
    task = custom(template="w0 {a} {b}", slots=slots, correct="{b}")
    found = list(task.cases(lexicon, "slots", Random(0)))
    assert {case.clean["a"] for case in found} == {"w1", "w4", "w5"}
    assert str(lexicon.fillers[0]) == "a: 3 of 4 take one token where they stand"


WORDS = {"a": ["w1", "w2"], "b": ["w3", "w4"]}
TWO = {"template": "{a} {b}", "slots": WORDS, "correct": "{a}"}
REFUSED = [
    ({}, InvalidArgument, "custom needs file="),
    ({"correct": "x"}, InvalidArgument, "custom needs file="),
    ({"file": "f.csv", "correct": "x", "vary": ["a"]}, InvalidArgument, "correct, vary goes with template="),
    ({"template": "{a}", "slots": WORDS}, InvalidArgument, "needs its answer"),
    ({"template": "{a}", "correct": "{a}"}, InvalidArgument, "from file= or from slots="),
    ({**TWO, "file": "f.csv"}, InvalidArgument, "from file= or from slots="),
    ({**TWO, "template": "no slot"}, InvalidArgument, "has no slot"),
    ({**TWO, "template": "{a"}, InvalidArgument, "template '{a'"),
    ({**TWO, "vary": ["c"]}, UnknownName, "unknown slot to vary 'c'"),
    ({**TWO, "vary": []}, InvalidArgument, "vary names no slot"),
    ({**TWO, "vary": ["b"]}, InvalidArgument, "no slot that varies"),
    ({**TWO, "correct": "{c}"}, UnknownName, "unknown slot of the template 'c'"),
    ({**TWO, "slots": {**WORDS, "c": ["w1"]}}, UnknownName, "unknown slot of the template 'c'"),
    ({**TWO, "slots": {"a": ["w1"]}}, InvalidArgument, r"slots\['b'\] must be a list of words"),
    ({**TWO, "slots": {**WORDS, "b": "w3"}}, InvalidArgument, r"slots\['b'\] must be a list of words"),
    ({**TWO, "slots": {**WORDS, "b": ["w3", ""]}}, InvalidArgument, r"slots\['b'\] must be a list of words"),
    ({**TWO, "slots": {"a": ["w1", "w1"], "b": ["w2"]}}, InvalidArgument, "two words to vary"),
]


@pytest.mark.parametrize(("settings", "error", "message"), REFUSED)
def test_settings_that_do_not_fit_are_refused_in_one_line(settings, error, message):
    with pytest.raises(error, match=message) as caught:
        custom(**settings)
    assert "\n" not in str(caught.value)


def test_one_answer_for_all_is_refused(tmp_path):
    rows = [{**row, "capital": "w1"} for row in ROWS]
    with pytest.raises(PromptError, match="every row has the same correct answer"):
        custom(file=written(tmp_path, rows), template="{country}", correct="{capital}")
    pairs = [{"clean": row["clean"], "corrupt": row["corrupt"], "correct": "w1"} for row in PAIRS]
    with pytest.raises(PromptError, match="give a column incorrect"):
        custom(file=written(tmp_path, pairs))


def test_too_few_rows_are_told_with_numbers(tmp_path):
    task = custom(file=written(tmp_path, ROWS), template="{country} w4", correct="{capital}")
    with pytest.raises(TaskError, match="64 asked"):
        task.generate(tiny_model("llama"), 64, screen=False)
