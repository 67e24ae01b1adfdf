"""Comparisons: which answer each wording has, by reading its text, and twins with the other answer."""

import re
from collections import Counter
from itertools import islice
from random import Random

import pytest

from patchpoint.errors import InvalidArgument, UnknownName
from patchpoint.tasks.kinds.comparison import COMPARATIVES, OPPOSITES, TEMPLATES, comparison
from task_tokenizers import EveryWordFits
from words import word_tokenizer

OPPOSITE = dict(OPPOSITES) | dict(COMPARATIVES)


def opposite_of_the_first(word):
    return OPPOSITE[word]


def asked_one(name, word, other, asked):
    return name if asked == word else other


def converse(name, word, other, again, opposite):
    assert (again, opposite) == (other, OPPOSITE[word])
    return name


READ = {
    "but": (r"\w+ is (\w+), but \w+ is", opposite_of_the_first),
    "plain": (r"\w+ is (\w+)\. \w+ is", opposite_of_the_first),
    "opposite": (r"The opposite of (\w+) is", opposite_of_the_first),
    "which": (r"(\w+) is (\w+) than (\w+)\. The (\w+) one is", asked_one),
    "converse": (r"(\w+) is (\w+) than (\w+), so (\w+) is (\w+) than", converse),
}


def cases(n=40, seed=0, **settings):
    found = comparison(**settings).cases(EveryWordFits(word_tokenizer()), "swapped", Random(seed))
    return list(islice(found, n))


def read(template, text):
    """Per question of a text, the answer that it should have and the one that stands there."""
    pattern, answer = READ[template]
    found = re.findall(f"{pattern}(?: (\\w+)\\. |$)", text)
    return [(answer(*groups[:-1]), groups[-1]) for groups in found]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("examples", [0, 1, 3])
def test_examples_are_right_and_so_is_the_answer(template, examples):
    for case in cases(template=template, examples=examples):
        *solved, (answer, left_open) = read(template, case.template.fill(case.clean).text)
        assert len(solved) == examples
        assert all(should == is_said for should, is_said in solved)
        assert left_open == ""
        assert case.correct == f" {answer}"


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_twin_has_the_incorrect_answer_for_its_own(template):
    for case in cases(template=template):
        *solved, (answer, _) = read(template, case.template.fill(case.corrupt).text)
        assert all(should == is_said for should, is_said in solved)
        assert case.incorrect == f" {answer}"
        changed = {slot for slot in case.template.slots if case.clean[slot] != case.corrupt[slot]}
        assert changed == {"which": {"asked"}, "converse": {"name", "other"}}.get(template, {"word"})


@pytest.mark.parametrize("template", TEMPLATES)
def test_names_and_words_come_once(template):
    for case in cases(template=template, examples=3):
        given = [case.clean[slot] for slot in case.template.slots if slot.rstrip("123") in ("name", "other")]
        assert len(set(given)) == len(given)
        words = [case.clean[slot] for slot in case.template.slots if slot.rstrip("123") == "word"]
        assert len({frozenset((word, OPPOSITE[word])) for word in words}) == 4


def test_the_name_that_is_right_is_the_first_as_often_as_the_second():
    found = cases(40, template="which")
    assert Counter(case.group for case in found) == {"the first name": 20, "the second name": 20}
    for case in found:
        assert (case.correct.strip() == case.clean["name"]) == (case.group == "the first name")
    firsts = [case.clean["answer1"] == case.clean["name1"] for case in found]
    assert 8 < sum(firsts) < 32


def test_no_word_has_two_opposites():
    for pairs in (OPPOSITES, COMPARATIVES):
        assert len(dict(pairs)) == len(pairs)
        assert all(dict(pairs)[other] == word for word, other in pairs)


def test_the_sentence_of_the_exploration_is_there():
    assert cases(1, template="plain", examples=0)[0].template.text == "{name} is {word}. {other} is"


def test_a_seed_gives_its_own_cases():
    assert cases(seed=1) == cases(seed=1)
    assert cases(seed=1) != cases(seed=2)


def test_words_that_do_not_fit_take_their_opposites_with_them():
    class NoShort(EveryWordFits):
        def fitting(self, what, words, places, *, n_tokens=1):
            return tuple(word for word in words if word != "short")

    found = comparison().cases(NoShort(word_tokenizer()), "swapped", Random(0))
    said = {value for case in islice(found, 300) for value in (*case.clean.values(), *case.corrupt.values())}
    assert {"big", "small"} <= said
    assert not {"tall", "short"} & said


def test_wrong_settings_are_refused_and_names_tell_the_right_ones():
    with pytest.raises(UnknownName, match="did you mean which"):
        comparison(template="whic")
    with pytest.raises(InvalidArgument, match="examples must be"):
        comparison(examples=-1)
    assert comparison().name == "comparison"
    assert comparison(template="plain", examples=0).name == "comparison template=plain examples=0"
