"""a or an: the last noun decides, no sentence before it gives its article away, and the twin needs the other."""

import re
from collections import Counter
from itertools import islice, product
from random import Random

import pytest

from patchpoint.errors import UnknownName
from patchpoint.tasks.kinds.article import SHOWN, TEXTS, a_an
from task_tokenizers import EveryWordFits
from words import word_tokenizer

TEMPLATES = ("all", *TEXTS)


def cases(n=48, seed=0, lexicon=None, **settings):
    lexicon = lexicon or EveryWordFits(word_tokenizer())
    return list(islice(a_an(**settings).cases(lexicon, "swapped", Random(seed)), n))


def article(noun):
    return "an" if noun[0] in "aeiou" else "a"


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("shots", [1, 2])
def test_every_article_is_that_of_its_noun(template, shots):
    for case in cases(template=template, shots=shots):
        for number in range(1, shots + 1):
            assert case.clean[f"article{number}"] == article(case.clean[f"noun{number}"])
        assert case.correct == f" {article(case.clean['noun'])}" == f" {case.group}"
        assert {case.correct, case.incorrect} == {" a", " an"}


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("shots", [1, 2])
def test_the_twin_has_another_last_noun_with_the_other_article(template, shots):
    for case in cases(template=template, shots=shots):
        shown = [case.clean[f"noun{number}"] for number in range(1, shots + 1)]
        assert {slot for slot in case.clean if case.clean[slot] != case.corrupt[slot]} == {"noun"}
        assert f" {article(case.corrupt['noun'])}" == case.incorrect
        assert not {case.clean["noun"], case.corrupt["noun"]} & set(shown)


def test_two_sentences_show_both_articles_in_both_orders_before_either_answer():
    found = Counter((case.metadata["shown"], case.group) for case in cases(96))
    assert found == {(" ".join(shown), answer): 24 for shown, answer in product(SHOWN["2"], ("a", "an"))}
    assert {frozenset(shown) for shown in SHOWN["2"]} == {frozenset(("a", "an"))}


def test_templates_and_articles_come_equally_often():
    found = Counter((case.template.name, case.group) for case in cases(96))
    assert found == {(name, answer): 16 for name in TEXTS for answer in ("a", "an")}


@pytest.mark.parametrize("shots", [1, 2])
def test_the_templates_that_are_mixed_have_one_number_of_words(shots):
    texts = [case.template.fill(case.clean).text for case in cases(24, shots=shots)]
    assert len({len(re.findall(r"\w+|[^\w\s]", text)) for text in texts}) == 1


def test_the_published_sentences_come_from_one_shot():
    (case,) = cases(1, template="climbed", shots=1)
    text = case.template.fill({"noun1": "pear", "article1": "a", "noun": "apple"}).text
    assert text == "I climbed up the pear tree and picked a pear. I climbed up the apple tree and picked"


def test_no_cases_where_one_article_has_a_single_noun():
    class FewVowels(EveryWordFits):
        def fitting(self, what, words, places, *, n_tokens=1):
            kept = [word for word in words if article(word) == "a" or word == "apple"]
            return super().fitting(what, kept, places, n_tokens=n_tokens)

    assert not cases(lexicon=FewVowels(word_tokenizer()), template="climbed")


def test_a_seed_gives_its_cases_again_and_another_others():
    assert cases(seed=3) == cases(seed=3)
    assert cases(seed=3) != cases(seed=4)


def test_settings_are_in_the_name_and_unknown_ones_named():
    assert a_an().name == "a-an"
    assert a_an(template="shop", shots="1").name == "a-an template=shop shots=1"
    with pytest.raises(UnknownName, match="template of a-an 'shp'; did you mean shop"):
        a_an(template="shp")
    with pytest.raises(UnknownName, match="number of shots of a-an '3'"):
        a_an(shots=3)
