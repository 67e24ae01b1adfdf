"""Cases of the sequence tasks: what they claim about members, answers, twins and starts."""

import calendar
import re
import string
from collections import Counter
from itertools import islice, pairwise
from random import Random

import pytest

from patchpoint.errors import InvalidArgument, UnknownName
from patchpoint.tasks.kinds import sequences
from patchpoint.tasks.kinds.members import number_word
from patchpoint.tasks.kinds.sequence_texts import FILLERS, FORMS
from patchpoint.tasks.kinds.words import NOUNS, first_names
from task_tokenizers import EveryWordFits
from words import word_tokenizer

_NUMBERS = "one two three four five six seven eight nine ten eleven twelve"
_ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
_MESES = "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre"
NUMBERS = _NUMBERS.split()
LISTS = {
    "numerals": [str(i) for i in range(1, 13)],
    "numwords": NUMBERS,
    "months": list(calendar.month_name)[1:],
    "spanish_months": _MESES.split(),
    "days": list(calendar.day_name) * 2,
    "ordinals": _ORDINALS.split(),
    "letters": list(string.ascii_uppercase),
}
N_STARTS = {"days": 7}
RULES = {
    "+1": lambda v: v + 1,
    "+2": lambda v: v + 2,
    "+3": lambda v: v + 3,
    "+10": lambda v: v + 10,
    "+100": lambda v: v + 100,
    "x2": lambda v: v * 2,
    "-1": lambda v: v - 1,
}
STUDY = ("numwords", "months", "numerals")


def cases_of(task, corruption="random", *, seed=0, n=200):
    lexicon = EveryWordFits(word_tokenizer())
    return list(islice(task.cases(lexicon, corruption, Random(seed)), n))


def members(values):
    return [values[f"S{i}"] for i in range(1, 13) if f"S{i}" in values]


def others(values):
    return {slot: word for slot, word in values.items() if not slot.startswith("S")}


def told(case, values):
    """The members in a text, found without its slots."""
    return [int(number) for number in re.findall(r"\d+", case.template.fill(values).text)]


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("template", FORMS)
def test_shown_members_stand_next_to_each_other_and_the_answer_is_the_next(name, template):
    for case in cases_of(getattr(sequences, name)(template=template)):
        shown = members(case.clean)
        known = [str(i) for i in range(1, 101)] if name == "numerals" else LISTS[name]
        at = known.index(shown[0])
        assert [*shown, case.correct[1:]] == known[at : at + 5]
        assert case.correct == f" {known[at + 4]}"
        assert case.incorrect == f" {shown[3]}"
        assert case.group == case.metadata["start"] == shown[0]
        assert case.metadata["members"] == " ".join(shown)


@pytest.mark.parametrize("order", RULES)
@pytest.mark.parametrize("template", ["statements", "between", "listed"])
def test_numerals_in_every_order(order, template):
    for case in cases_of(sequences.numerals(template=template, order=order)):
        shown = told(case, case.clean)
        assert len(shown) == 4
        assert all(b == RULES[order](a) for a, b in pairwise(shown))
        assert int(case.correct) == RULES[order](shown[-1])
        assert int(case.incorrect) == shown[-1]
        assert case.metadata["order"] == order


@pytest.mark.parametrize("order", RULES)
def test_number_words_in_every_order_are_the_numerals_in_words(order):
    numeral = {number_word(i): i for i in range(1, 1000)}
    for case in cases_of(sequences.numwords(order=order)):
        values = [numeral[word] for word in (*members(case.clean), case.correct[1:])]
        assert all(b == RULES[order](a) for a, b in pairwise(values))


@pytest.mark.parametrize("shown", [3, 4, 6, 12])
def test_fibonacci_members_are_sums_of_the_two_before(shown):
    cases = cases_of(sequences.fibonacci(shown=shown))
    for case in cases:
        values = [*told(case, case.clean), int(case.correct)]
        assert len(values) == shown + 1
        assert all(c == a + b for a, b, c in zip(values, values[1:], values[2:], strict=False))
        assert case.group == f"{values[0]} {values[1]}"
        random = told(case, case.corrupt)
        assert random[-1] != random[-2] + random[-3]
    assert len({case.group for case in cases}) == 25


def test_the_week_has_no_end_and_the_year_has_one():
    assert {case.correct for case in cases_of(sequences.days(order="+2"))} == {
        f" {d}" for d in calendar.day_name
    }
    by_start = {case.group: case.correct for case in cases_of(sequences.days())}
    assert by_start["Friday"] == " Tuesday"
    assert {case.group for case in cases_of(sequences.months())} == set(LISTS["months"][:8])
    last = {case.group: case.correct for case in cases_of(sequences.months(order="-1"))}
    assert last["December"] == " August"
    assert set(last) == set(LISTS["months"][4:])


@pytest.mark.parametrize("template", FORMS)
@pytest.mark.parametrize("corruption", ["random", "swapped"])
def test_twins_differ_in_members_only(template, corruption):
    for case in cases_of(sequences.numwords(template=template), corruption):
        assert others(case.clean) == others(case.corrupt)
        assert members(case.clean) != members(case.corrupt)
        assert set(members(case.corrupt)) <= set(NUMBERS)


@pytest.mark.parametrize("order", RULES)
@pytest.mark.parametrize("shown", [3, 4])
def test_random_members_are_no_sequence(order, shown):
    for case in cases_of(sequences.numerals(order=order, shown=shown), n=600):
        *_, before, last = told(case, case.corrupt)
        assert last != RULES[order](before)


def test_random_members_of_a_cycle_are_no_sequence_over_its_end():
    twins = [members(case.corrupt) for case in cases_of(sequences.days(), n=600)]
    assert all(last != LISTS["days"][LISTS["days"].index(before) + 1] for *_, before, last in twins)
    assert any(last == before for *_, before, last in twins)


def test_random_members_are_any_of_the_twelve_in_each_place():
    twins = [members(case.corrupt) for case in cases_of(sequences.months(), n=2000)]
    for place in range(4):
        counts = Counter(twin[place] for twin in twins)
        assert set(counts) == set(LISTS["months"])
        # Uniform: 167 each with a standard deviation of 12; "January" last and "December" third are a bit likelier.
        assert min(counts.values()) > 110
        assert max(counts.values()) < 235


@pytest.mark.parametrize("order", RULES)
@pytest.mark.parametrize("shown", [3, 4])
def test_swapped_members_are_the_same_ones_in_no_order(order, shown):
    for case in cases_of(sequences.numerals(order=order, shown=shown), "swapped"):
        clean, swapped = told(case, case.clean), told(case, case.corrupt)
        assert sorted(swapped) == sorted(clean)
        assert swapped not in (clean, clean[::-1])
        assert swapped[-1] != RULES[order](swapped[-2])


@pytest.mark.parametrize("name", LISTS)
def test_every_block_has_every_start_once_and_templates_take_turns(name):
    cases, n = cases_of(getattr(sequences, name)(), n=200), N_STARTS.get(name, 8)
    starts = LISTS[name][:n]
    for turn in range(len(cases) // n):
        block = cases[turn * n : (turn + 1) * n]
        assert [case.group for case in block] == starts
        assert {case.template.name for case in block} == {("born", "lost", "done")[turn % 3]}


@pytest.mark.parametrize("template", ["statements", "was-statements", "between", "repeated"])
@pytest.mark.parametrize("order", ["+1", "-1"])
def test_the_tasks_of_the_study_tell_the_same_sentences(template, order):
    for corruption in ("random", "swapped"):
        lots = [
            cases_of(getattr(sequences, name)(template=template, order=order), corruption) for name in STUDY
        ]
        for row in zip(*lots, strict=True):
            words, months, numerals = row
            assert words.template == months.template == numerals.template
            assert others(words.clean) == others(months.clean) == others(numerals.clean)
            assert len({case.number for case in row}) == 1
            assert all(case.metadata["sentence"] == case.number for case in row)
            at = int(numerals.group) - 1
            assert (words.group, months.group) == (NUMBERS[at], LISTS["months"][at])


def test_cases_are_decided_by_the_seed():
    task = sequences.months()
    assert cases_of(task, seed=3) == cases_of(task, seed=3)
    assert cases_of(task, seed=3)[0].clean != cases_of(task, seed=4)[0].clean
    assert cases_of(task, "random")[5].clean == cases_of(task, "swapped")[5].clean
    assert cases_of(task, "random")[5].corrupt != cases_of(task, "swapped")[5].corrupt


def test_other_words_come_once_in_a_prompt_and_are_no_members():
    every = {word for words in LISTS.values() for word in words}
    every |= {number_word(i) for i in range(1, 200)}
    for words in FILLERS.values():
        assert not {word.lower() for word in words()} & {word.lower() for word in every}
    for template in ("born", "lost", "done", "between"):
        for case in cases_of(sequences.months(template=template)):
            around = others(case.clean)
            assert len(set(around.values())) == len(around) == 5


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("born", first_names()[:500]),
        ("was-born", first_names()[:500]),
        *((verb, NOUNS) for verb in ("lost", "done", "was-lost", "was-done")),
        ("between", [noun.lower() for noun in NOUNS]),
    ],
)
def test_people_are_born_and_things_are_lost(template, words):
    cases = cases_of(sequences.months(template=template), n=400)
    used = {word for case in cases for word in others(case.clean).values()}
    assert used <= set(words)
    assert len(used) > len(words) / 2


def test_texts_are_those_of_the_study():
    texts = {
        template: re.sub("X[1-5]", "X", cases_of(sequences.months(template=template))[0].template.text)
        for template in FORMS
    }
    for verb in ("born", "lost", "done"):
        clauses = [f"{{X}} {verb} in {{S{i}}}. " for i in range(1, 5)]
        assert texts[verb] == "".join(clauses) + f"{{X}} {verb} in"
        assert texts[f"was-{verb}"] == texts[verb].replace(verb, f"was {verb}")
    assert texts["between"] == texts["repeated"] == "{X} {S1} {X} {S2} {X} {S3} {X} {S4} {X}"
    assert texts["pure"] == "{S1} {S2} {S3} {S4}"
    assert texts["listed"] == "{S1}, {S2}, {S3}, {S4},"
    assert cases_of(sequences.days())[0].template.text.endswith("{X5} born on")
    assert cases_of(sequences.ordinals())[0].template.text.endswith("{X5} born on the")


def test_r45_members_inside_other_words_are_no_members():
    for case in cases_of(sequences.numwords(template="done")):
        filled = case.template.fill(case.corrupt)
        assert filled.text.count(" done in") == 5
        for slot, (start, stop) in filled.places.items():
            assert filled.text[start:stop] == case.corrupt[slot]


@pytest.mark.parametrize(("template", "n"), [("pure", 96), ("listed", 96)])
def test_without_other_words_each_window_comes_once(template, n):
    cases = cases_of(sequences.numerals(template=template))
    assert {case.group for case in cases} == {str(i) for i in range(1, n + 1)}
    assert len(cases) == n
    assert [case.group for case in cases] != sorted((case.group for case in cases), key=int)
    assert len(cases_of(sequences.months(template=template))) == 8


def test_the_range_of_numerals_can_be_chosen():
    cases = cases_of(sequences.numerals(first=50, last=60))
    assert {case.group for case in cases} == {str(i) for i in range(50, 57)}
    assert {number for case in cases for number in told(case, case.corrupt)} == set(range(50, 61))
    assert {c.group for c in cases_of(sequences.numerals(order="+10", first=3, last=60))} == {"3", "13"}
    words = cases_of(sequences.numwords(first=18, last=22))
    assert {case.correct for case in words} == {" twenty-two"}
    assert {c.group for c in cases_of(sequences.fibonacci(first=3, last=4))} == {"3 3", "3 4", "4 3", "4 4"}


def test_tasks_are_named_after_the_settings_that_are_not_usual():
    assert sequences.spanish_months().name == "spanish-months"
    assert sequences.numerals(order="x2", template="pure").name == "numerals template=pure order=x2"
    assert sequences.numwords(shown=5, last=20).name == "numwords shown=5 last=20"
    assert sequences.fibonacci(shown=6, first=2).name == "fibonacci shown=6 first=2"
    assert sequences.days().corruptions == ("random", "swapped")


@pytest.mark.parametrize(
    ("name", "settings", "error", "message"),
    [
        ("months", {"template": "bron"}, UnknownName, "template of months 'bron'; did you mean 'born'|born"),
        ("months", {"order": "+4"}, UnknownName, r"order of months '\+4'"),
        ("numerals", {"order": 2}, UnknownName, "order of numerals '2'"),
        ("numerals", {"template": ["pure"]}, UnknownName, "template of numerals"),
        (
            "months",
            {"order": "+3"},
            InvalidArgument,
            "no 4 members in this order .* among the 12 from 'January'",
        ),
        ("letters", {"order": "+10"}, InvalidArgument, r"letters order=\+10: no 4 members"),
        ("days", {"order": "+10"}, InvalidArgument, r"days order=\+10: no 4 members"),
        ("days", {"order": "x2"}, InvalidArgument, "days order=x2: no 4 members"),
        ("days", {"shown": 7}, InvalidArgument, "no 7 members"),
        ("numwords", {"order": "+100", "last": 400}, InvalidArgument, "to 'four hundred'"),
        (
            "numerals",
            {"shown": 2},
            InvalidArgument,
            "shown=2: give the number of members in a prompt, 3 to 12",
        ),
        ("numerals", {"shown": 4.0}, InvalidArgument, "shown=4.0"),
        ("fibonacci", {"shown": True}, InvalidArgument, "shown=True"),
        ("numerals", {"last": 9999}, InvalidArgument, "last=9999; give two integers.* from 1 to 2000"),
        ("numerals", {"first": 5, "last": 5}, InvalidArgument, "first=5 and last=5"),
        ("numwords", {"first": "one"}, InvalidArgument, "first='one'"),
        ("fibonacci", {"first": 0}, InvalidArgument, "first=0"),
        ("fibonacci", {"first": 1800, "last": 2000}, InvalidArgument, "order=fibonacci: no 4 members"),
    ],
)
def test_settings_that_make_no_sequence_are_refused_in_one_line(name, settings, error, message):
    with pytest.raises(error, match=message) as refused:
        getattr(sequences, name)(**settings)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (1, "one"),
        (12, "twelve"),
        (19, "nineteen"),
        (20, "twenty"),
        (38, "thirty-eight"),
        (90, "ninety"),
        (100, "one hundred"),
        (110, "one hundred ten"),
        (999, "nine hundred ninety-nine"),
    ],
)
def test_numbers_in_words(value, word):
    assert number_word(value) == word
