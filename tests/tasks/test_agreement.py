"""Agreement: the verb's number is the subject's, whatever stands between; the twin changes one noun's number."""

import re
from collections import Counter
from itertools import islice, product
from random import Random

import pytest

from patchpoint.errors import UnknownName
from patchpoint.tasks.kinds.agreement import NUMBERS, TEMPLATES, VERBS, subject_verb_agreement
from task_tokenizers import EveryWordFits
from words import word_tokenizer

SINGULARS = {f" {verb}" for verb in VERBS}
PLURALS = {f" {verb}" for verb in VERBS.values()}


def cases(n=60, corruption="number", seed=0, lexicon=None, **settings):
    lexicon = lexicon or EveryWordFits(word_tokenizer())
    return list(islice(subject_verb_agreement(**settings).cases(lexicon, corruption, Random(seed)), n))


def number(noun):
    return "plural" if noun.endswith("s") else "singular"


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("verb", VERBS)
def test_the_verb_has_the_subjects_number(template, verb):
    for case in cases(template=template, verb=verb):
        right, wrong = (
            (SINGULARS, PLURALS) if number(case.clean["subject"]) == "singular" else (PLURALS, SINGULARS)
        )
        assert {case.correct, *case.also_correct} == right
        assert {case.incorrect, *case.also_incorrect} == wrong
        assert {case.correct, case.incorrect} == {f" {verb}", f" {VERBS[verb]}"}


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize(("corruption", "changed"), [("number", "subject"), ("attractor", "attractor")])
def test_the_twin_changes_the_number_of_one_noun(template, corruption, changed):
    for case in cases(template=template, corruption=corruption):
        (kept,) = {"subject", "attractor"} - {changed}
        assert case.corrupt[kept] == case.clean[kept]
        assert case.corrupt[changed].removesuffix("s") == case.clean[changed].removesuffix("s")
        assert number(case.corrupt[changed]) != number(case.clean[changed])


@pytest.mark.parametrize("template", TEMPLATES)
def test_all_four_pairs_of_numbers_come_about_equally_often(template):
    found = cases(400, template=template)
    for case in found:
        assert case.group == f"{number(case.clean['subject'])} {number(case.clean['attractor'])}"
        assert case.clean["subject"].removesuffix("s") != case.clean["attractor"].removesuffix("s")
    counts = Counter(case.group for case in found)
    assert set(counts) == {" ".join(both) for both in product(NUMBERS, NUMBERS)}
    assert max(counts.values()) - min(counts.values()) < 20


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_templates_that_are_mixed_have_one_number_of_words(template):
    assert len({len(re.findall(r"\w+", text)) for text in TEMPLATES[template][0]}) == 1


def test_nouns_are_singulars_whose_plural_has_an_s():
    for _, *lists in TEMPLATES.values():
        for noun in {noun for words in lists for noun in words}:
            assert not re.search(r"(s|x|z|ch|sh|[^aeiou]y|f|fe|man)$", noun) or noun == "church", noun


def test_a_noun_whose_plural_does_not_fit_is_left_out():
    class NoKeys(EveryWordFits):
        def fitting(self, what, words, places, *, n_tokens=1):
            return super().fitting(what, set(words) - {"keys"}, places, n_tokens=n_tokens)

    found = cases(300, lexicon=NoKeys(word_tokenizer()))
    assert "key" not in {case.clean["subject"] for case in found}
    assert "book" in {case.clean["subject"] for case in found}


def test_a_single_noun_for_both_gives_no_cases():
    class OnlyTree(EveryWordFits):
        def fitting(self, what, words, places, *, n_tokens=1):
            return super().fitting(what, {"tree", "trees"} & set(words), places, n_tokens=n_tokens)

    assert not cases(lexicon=OnlyTree(word_tokenizer()))


def test_a_seed_gives_its_cases_again_and_another_others():
    assert cases(seed=3) == cases(seed=3)
    assert cases(seed=3) != cases(seed=4)


def test_settings_are_in_the_name_and_unknown_ones_named():
    assert subject_verb_agreement().name == "subject-verb-agreement"
    found = subject_verb_agreement(template="bare", verb="was").name
    assert found == "subject-verb-agreement template=bare verb=was"
    with pytest.raises(UnknownName, match="'claus'; did you mean clause"):
        subject_verb_agreement(template="claus")
    with pytest.raises(UnknownName, match="verb of subject-verb-agreement 'wos'; did you mean was"):
        subject_verb_agreement(verb="wos")
