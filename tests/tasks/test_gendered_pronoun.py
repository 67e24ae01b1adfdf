"""Gendered pronouns: the name decides, and the twin has a name of the other gender."""

import re
from collections import Counter
from itertools import islice
from random import Random

import pytest

from patchpoint.errors import UnknownName
from patchpoint.tasks.kinds.gendered_pronoun import ROTATED, SINGLE, gendered_pronoun
from patchpoint.tasks.kinds.words import female_names, male_names
from task_tokenizers import EveryWordFits
from words import word_tokenizer

TEMPLATES = ("all", *ROTATED, *SINGLE)
NAMES = {" she": set(female_names()), " he": set(male_names())}


def cases(n=60, seed=0, lexicon=None, **settings):
    lexicon = lexicon or EveryWordFits(word_tokenizer())
    return list(islice(gendered_pronoun(**settings).cases(lexicon, "swapped", Random(seed)), n))


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_pronoun_is_that_of_the_name_and_the_twins_is_the_other(template):
    for case in cases(template=template):
        assert {case.correct, case.incorrect} == set(NAMES)
        assert case.clean["name"] in NAMES[case.correct] - NAMES[case.incorrect]
        assert case.corrupt["name"] in NAMES[case.incorrect] - NAMES[case.correct]
        assert case.group == {" she": "female", " he": "male"}[case.correct]
        assert case.corrupt["role"] == case.clean["role"]


def test_both_genders_and_templates_come_equally_often():
    found = Counter((case.template.name, case.group) for case in cases(48))
    assert found == {(name, gender): 8 for name in ROTATED for gender in ("female", "male")}


def test_the_templates_that_are_mixed_have_one_number_of_words():
    texts = [case.template.fill(case.clean).text for case in cases(12)]
    assert len({len(re.findall(r"\w+|[^\w\s]", text)) for text in texts}) == 1


def test_the_published_sentence_is_one_of_them():
    (case,) = cases(1, template="really")
    text = case.template.fill({"name": "Mary", "role": "friend"}).text
    assert text == "So Mary is a really great friend, isn't"


def test_a_seed_gives_its_cases_again_and_another_others():
    assert cases(seed=3) == cases(seed=3)
    assert cases(seed=3) != cases(seed=4)


def test_settings_are_in_the_name_and_unknown_ones_named():
    assert gendered_pronoun().name == "gendered-pronoun"
    assert gendered_pronoun(template="say").name == "gendered-pronoun template=say"
    with pytest.raises(UnknownName, match="'realy'; did you mean really"):
        gendered_pronoun(template="realy")


@pytest.mark.parametrize("missing", ["names of women", "names of men", "roles"])
def test_no_cases_where_a_list_has_no_word_that_fits(missing):
    class AllButOne(EveryWordFits):
        def fitting(self, what, words, places, *, n_tokens=1):
            return super().fitting(what, () if what == missing else words, places, n_tokens=n_tokens)

    assert not cases(lexicon=AllButOne(word_tokenizer()))
