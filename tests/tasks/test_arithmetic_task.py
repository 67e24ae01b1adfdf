"""Arithmetic: every text is read and calculated again, with its examples and its twin."""

import datetime
import re
from itertools import islice
from random import Random

import pytest

from patchpoint.errors import InvalidArgument, UnknownName
from patchpoint.tasks.kinds.arithmetic import TEMPLATES, arithmetic, ordinal
from patchpoint.tasks.kinds.words import MONTHS
from patchpoint.tasks.lexicon import Lexicon
from task_tokenizers import EveryWordFits
from words import word_tokenizer

COUNTED = [name for name, form in TEMPLATES.items() if form.counted]


def months_pass(month, n):
    return MONTHS[(MONTHS.index(month) + int(n)) % 12]


def date(month, day, n):
    then = datetime.date(2023, MONTHS.index(month) + 1, int(day[:-2])) + datetime.timedelta(int(n))
    return f"{MONTHS[then.month - 1]} {ordinal(then.day)}"


def calculated(a, sign, b):
    return str(int(a) + int(b) if sign == "+" else int(a) - int(b))


def told(name, a, things, b, again, written, sign, second):
    assert (again, written, second) == (name, a, b)
    return calculated(a, sign, b)


READ = {
    "sum": (r"(\d+) (\+) (\d+) =", calculated),
    "difference": (r"(\d+) (-) (\d+) =", calculated),
    "story": (
        r"\w+ has (\d+) \w+\. \w+ gives \w+ (\d+) more\. Now \w+ has",
        lambda a, b: calculated(a, "+", b),
    ),
    "story-less": (
        r"\w+ has (\d+) \w+\. \w+ gives (\d+) of them to \w+\. Now \w+ has",
        lambda a, b: calculated(a, "-", b),
    ),
    "story-sum": (r"(\w+) has (\d+) (\w+) and gets (\d+) more\. Now (\w+) has (\d+) (\+) (\d+) =", told),
    "story-difference": (
        r"(\w+) has (\d+) (\w+) and gives away (\d+)\. Now (\w+) has (\d+) (-) (\d+) =",
        told,
    ),
    "months-pass": (
        r"If this month is (\w+), and (\d+) months pass, what month is it\? Answer:",
        months_pass,
    ),
    "date": (r"If today is (\w+) (\w+), then in (\d+) days it will be", date),
}
RESULT = r"(?: (\w+(?: \d+\w\w)?)[^\w]|$)"


def cases(n=40, seed=0, **settings):
    found = arithmetic(**settings).cases(EveryWordFits(word_tokenizer()), "operands", Random(seed))
    return list(islice(found, n))


def read(template, text):
    """Per question of a text, its result and what stands there."""
    pattern, result = READ[template]
    return [(result(*groups[:-1]), groups[-1]) for groups in re.findall(pattern + RESULT, text)]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("examples", [0, 1, 3])
def test_results_and_examples_are_calculated_right(template, examples):
    for case in cases(template=template, examples=examples):
        for values, answer in ((case.clean, case.correct), (case.corrupt, case.incorrect)):
            *solved, (result, left_open) = read(template, case.template.fill(values).text)
            assert len(solved) == examples
            assert all(should == is_said for should, is_said in solved)
            assert (left_open, answer) == ("", f" {result}")
            assert not {case.correct[1:], case.incorrect[1:]} & {said for _, said in solved}


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_twin_has_another_second_number_and_nothing_else(template):
    changed = {"months-pass": "months", "date": "days"}.get(template, "b")
    for case in cases(template=template):
        assert {slot for slot in case.template.slots if case.clean[slot] != case.corrupt[slot]} == {changed}


@pytest.mark.parametrize("template", COUNTED)
@pytest.mark.parametrize("digits", [1, 2, 3])
def test_numbers_and_results_have_the_digits_asked_for(template, digits):
    for case in cases(template=template, digits=digits, examples=1):
        for values in (case.clean, case.corrupt):
            numbers = re.findall(r"\d+", case.template.fill(values).text)
            assert {len(number) for number in (*numbers, case.correct[1:], case.incorrect[1:])} == {digits}


@pytest.mark.parametrize("template", [name for name in COUNTED if name.startswith("story")])
def test_stories_have_two_people_and_several_things(template):
    for case in cases(200, template=template):
        assert case.clean.get("other") != case.clean["name"]
        assert min(int(case.clean["a"]), int(case.correct), int(case.incorrect)) > 1


def test_differences_are_never_negative_and_may_be_zero():
    results = {int(case.correct) for case in cases(300, template="difference")}
    assert results == set(range(9))


def test_dates_stay_in_their_month_and_months_go_round():
    assert all(case.correct.split()[0] == case.clean["month"] for case in cases(template="date"))
    found = cases(200, template="months-pass")
    assert {case.correct[1:] for case in found} == set(MONTHS)
    assert any(MONTHS.index(case.correct[1:]) < MONTHS.index(case.clean["month"]) for case in found)
    assert {int(case.clean["months"]) for case in found} == set(range(2, 12))


def test_ordinals_are_written_as_in_english():
    said = " ".join(map(ordinal, (1, 2, 3, 4, 10, 11, 12, 13, 20, 21, 22, 23, 28)))
    assert said == "1st 2nd 3rd 4th 10th 11th 12th 13th 20th 21st 22nd 23rd 28th"


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_seed_gives_its_own_cases(template):
    assert cases(seed=1, template=template) == cases(seed=1, template=template)
    assert cases(seed=1, template=template) != cases(seed=2, template=template)


def test_numbers_that_allow_no_problem_end_the_cases():
    class OnlyNines(EveryWordFits):
        def fitting(self, what, words, places, *, n_tokens=1):
            return tuple(word for word in words if word == "9" or not word.isdigit())

    assert not list(arithmetic().cases(OnlyNines(word_tokenizer()), "operands", Random(0)))


def test_numbers_that_take_more_tokens_at_the_beginning_of_a_text_still_fit():
    class MoreInFront(Lexicon):
        def _n_tokens(self, word, before, after):
            return 1 + len(word) - bool(before)

    for digits in (1, 2):
        found = arithmetic(digits=digits).cases(MoreInFront(word_tokenizer()), "operands", Random(0))
        assert len(list(islice(found, 10))) == 10


@pytest.mark.parametrize("digits", [0, 4, 1.0, True, "1"])
def test_a_wrong_number_of_digits_is_refused(digits):
    with pytest.raises(InvalidArgument, match="digits must be a whole number from 1 to 3, got"):
        arithmetic(digits=digits)


def test_wrong_settings_are_refused_and_names_tell_the_right_ones():
    with pytest.raises(UnknownName, match="did you mean story"):
        arithmetic(template="storys")
    with pytest.raises(InvalidArgument, match="date has numbers of its own; leave digits out, got 2"):
        arithmetic(template="date", digits=2)
    with pytest.raises(InvalidArgument, match="examples must be"):
        arithmetic(examples=99)
    assert arithmetic().name == "arithmetic"
    assert arithmetic(examples=0).name == "arithmetic examples=0"
    assert arithmetic(template="story-sum", digits=2).name == "arithmetic template=story-sum digits=2"
