"""Indirect objects: who is said twice, whom the twin exchanges, and how often each order comes."""

import re
from collections import Counter
from itertools import islice
from random import Random

import pytest

from made_tokenizers import byte_level
from patchpoint.errors import UnknownName
from patchpoint.tasks.kinds.ioi import CORRUPTIONS, ORDERS, ROTATED, SINGLE, ioi
from patchpoint.tasks.lexicon import Lexicon
from task_tokenizers import EveryWordFits
from words import word_tokenizer

TEMPLATES = ("all", *ROTATED, *SINGLE)


def cases(n=40, corruption="abc", seed=0, **settings):
    found = ioi(**settings).cases(EveryWordFits(word_tokenizer()), corruption, Random(seed))
    return list(islice(found, n))


def text(case):
    return case.template.fill(case.clean).text


@pytest.mark.parametrize("template", TEMPLATES)
def test_one_name_is_said_twice_and_the_other_is_the_answer(template):
    for case in cases(template=template):
        words = re.findall(r"\w+", text(case))
        assert case.clean["S1"] == case.clean["S2"]
        assert words.count(case.clean["S1"]) == 2
        assert words.count(case.clean["IO"]) == 1
        assert (case.correct, case.incorrect) == (f" {case.clean['IO']}", f" {case.clean['S1']}")


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_order_is_the_one_that_the_group_says(template):
    for case in cases(template=template):
        places = case.template.fill(case.clean).places
        in_order = sorted(("IO", "S1", "S2"), key=lambda role: places[role])
        assert case.group == case.metadata["order"]
        assert in_order == {"ABBA": ["IO", "S1", "S2"], "BABA": ["S1", "IO", "S2"]}[case.group]


@pytest.mark.parametrize("template", TEMPLATES)
def test_abc_says_three_new_names_and_nothing_else(template):
    for case in cases(template=template):
        new = {case.corrupt[slot] for slot in ("IO", "S1", "S2")}
        assert len(new) == 3
        assert not new & set(case.clean.values())
        assert all(case.corrupt[slot] == case.clean[slot] for slot in ("place", "object"))


@pytest.mark.parametrize("template", TEMPLATES)
def test_swapped_says_the_answers_name_twice(template):
    for case in cases(template=template, corruption="swapped"):
        assert case.corrupt == {**case.clean, "S2": case.clean["IO"]}


def test_both_orders_of_every_template_come_equally_often():
    found = Counter((case.template.name.split()[0], case.group) for case in cases(4 * 10))
    assert found == {(name, order): 4 for name in ROTATED for order in ORDERS}
    assert {case.group for case in cases(order="ABBA")} == {"ABBA"}
    assert {case.group for case in cases(order="BABA", template="then")} == {"BABA"}


def test_the_templates_that_are_mixed_have_one_number_of_words():
    assert len({len(re.findall(r"\w+|[^\w\s]", text(case))) for case in cases(20)}) == 1


def test_the_published_sentence_is_one_of_them():
    values = {"IO": "Mary", "S1": "John", "S2": "John", "place": "store", "object": "drink"}
    (case,) = cases(1, template="when", order="ABBA")
    assert case.template.fill(values).text == "When Mary and John went to the store, John gave a drink to"


def test_a_seed_gives_its_cases_again_and_another_others():
    assert cases(seed=3) == cases(seed=3)
    assert cases(seed=3) != cases(seed=4)


def test_settings_are_in_the_name_and_unknown_ones_named():
    assert ioi().name == "ioi"
    assert ioi(template="then", order="ABBA").name == "ioi template=then order=ABBA"
    assert ioi().corruptions == tuple(CORRUPTIONS) == ("abc", "swapped")
    with pytest.raises(UnknownName, match="template of ioi 'whem'; did you mean when"):
        ioi(template="whem")
    with pytest.raises(UnknownName, match="order of ioi 'abba'"):
        ioi(order="abba")


def test_a_tokenizer_without_words_gives_none_and_says_what_was_left():
    lexicon = Lexicon(byte_level())
    assert not list(ioi().cases(lexicon, "abc", Random(0)))
    assert [(one.what, one.n_tokens) for one in lexicon.fillers] == [
        ("names", 1),
        ("places", 1),
        ("objects", 1),
    ]
    assert all(one.kept < one.given for one in lexicon.fillers)
