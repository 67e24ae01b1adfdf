"""Induction: the list, what is said again, what follows, and twins in which it does not."""

from collections import Counter
from itertools import islice
from random import Random

import pytest

from patchpoint.errors import InvalidArgument, UnknownName
from patchpoint.tasks.kinds.induction import induction
from task_tokenizers import EveryWordFits
from words import word_tokenizer

SETTINGS = [
    {"template": template, "words": words} for template in ("repeated", "pair") for words in (4, 7, 10, 40)
]


def cases(n=30, corruption="broken", seed=0, **settings):
    found = induction(**settings).cases(EveryWordFits(word_tokenizer()), corruption, Random(seed))
    return list(islice(found, n))


def words_of(case):
    return tuple(case.template.fill(values).text.split() for values in (case.clean, case.corrupt))


def followers(words):
    """What followed earlier places of the last word."""
    return [words[i + 1] for i in range(len(words) - 1) if words[i] == words[-1]]


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_answer_followed_the_last_word_before(settings):
    for case in cases(**settings):
        words, _ = words_of(case)
        listed, again = words[: settings["words"]], words[settings["words"] :]
        assert len(set(listed)) == len(listed)
        assert [f" {word}" for word in followers(words)] == [case.correct]
        assert len(again) == (settings["words"] // 2 if settings["template"] == "repeated" else 1)
        start = listed.index(again[0])
        assert listed[start : start + len(again)] == again
        assert case.incorrect.strip() in set(listed) - set(again)


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_broken_twin_has_another_word_where_the_last_one_stood_first(settings):
    for case in cases(**settings):
        words, twin = words_of(case)
        assert [i for i, pair in enumerate(zip(words, twin, strict=True)) if pair[0] != pair[1]] == [
            words.index(words[-1])
        ]
        assert followers(twin) == []
        assert twin[words.index(words[-1])] not in words


@pytest.mark.parametrize("settings", SETTINGS)
def test_an_exchanged_twin_has_the_incorrect_answer_for_its_own(settings):
    for case in cases(corruption="exchanged", **settings):
        words, twin = words_of(case)
        assert [f" {word}" for word in followers(twin)] == [case.incorrect]
        assert Counter(words) == Counter(twin)
        assert sum(a != b for a, b in zip(words, twin, strict=True)) == 2


def test_a_seed_gives_its_own_cases():
    assert cases(seed=1) == cases(seed=1)
    assert cases(seed=1) != cases(seed=2)


def test_the_incorrect_answer_is_not_always_at_one_place():
    places = {words_of(case)[0].index(case.incorrect.strip()) for case in cases(100)}
    assert places == {6, 7, 8, 9}


def test_too_few_words_give_no_cases():
    class Few(EveryWordFits):
        def fitting(self, what, words, places, *, n_tokens=1):
            return tuple(words)[:10]

    assert not list(induction().cases(Few(word_tokenizer()), "broken", Random(0)))


@pytest.mark.parametrize("words", [3, 41, 8.0, True, "8"])
def test_a_wrong_length_is_refused(words):
    with pytest.raises(InvalidArgument, match="words must be a whole number from 4 to 40, got"):
        induction(words=words)


def test_unknown_templates_are_refused_and_names_tell_the_settings():
    with pytest.raises(UnknownName, match="did you mean pair"):
        induction(template="pairs")
    assert induction().name == "induction"
    assert induction(template="pair", words=6).name == "induction template=pair words=6"
