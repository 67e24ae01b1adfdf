"""Greater-than: which years are right, the twin's year, and tokenizers that write years in one, two or four pieces."""

from collections import Counter
from itertools import islice
from random import Random

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from patchpoint.errors import UnknownName
from patchpoint.tasks.kinds.greater_than import CENTURIES, TEXTS, greater_than
from patchpoint.tasks.lexicon import Lexicon
from task_tokenizers import EveryWordFits, model_for
from words import word_tokenizer


def tokenizer(digits):
    """Words and runs of so many digits as tokens, whatever they are."""
    backend = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    runs = Regex(rf"\d{{1,{digits}}}|[^\W\d]+|[^\w\s]")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(runs, "isolated")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def cases(n=80, seed=0, lexicon=None, **settings):
    lexicon = lexicon or EveryWordFits(word_tokenizer())
    return list(islice(greater_than(**settings).cases(lexicon, "01", Random(seed)), n))


@pytest.mark.parametrize("template", TEXTS)
@pytest.mark.parametrize("digits", [1, 2])
def test_later_years_are_right_and_all_others_wrong(template, digits):
    for case in cases(template=template, lexicon=Lexicon(tokenizer(digits))):
        right, wrong = {case.correct, *case.also_correct}, {case.incorrect, *case.also_incorrect}
        assert {int(year) for year in right} == set(range(int(case.clean["year"]) + 1, 100))
        assert {int(year) for year in wrong} == set(range(int(case.clean["year"]) + 1))
        assert all(len(year) == 2 for year in right | wrong)


@pytest.mark.parametrize("template", TEXTS)
def test_the_twin_has_the_year_one_and_nothing_else_changes(template):
    for case in cases(template=template):
        assert case.corrupt == {**case.clean, "year": "01"}
        assert case.clean["year"] > "01"


@pytest.mark.parametrize("template", TEXTS)
def test_the_text_ends_in_its_own_century(template):
    for case in cases(template=template):
        text = case.template.fill(case.clean).text
        assert text.endswith(f"year {case.clean['century']}")
        assert f" {case.metadata['year']} " in text
        assert str(case.metadata["year"]) == case.clean["century"] + case.clean["year"]


def test_decades_and_centuries_come_equally_often():
    found = cases(10 * len(CENTURIES) * 2)
    assert Counter(case.group for case in found) == {f"{tens}0s": 2 * len(CENTURIES) for tens in range(10)}
    assert Counter(case.clean["century"] for case in found) == dict.fromkeys(CENTURIES, 20)
    assert {case.clean["century"] for case in cases(century="13")} == {"13"}


def test_years_in_two_pieces_are_of_every_kind():
    lexicon = Lexicon(tokenizer(2))
    years = {case.clean["year"] for case in cases(900, lexicon=lexicon)}
    assert min(years) == "02"
    assert max(years) == "98"
    assert len(years) > 80


def test_years_digit_by_digit_are_those_whose_next_digit_decides():
    found = cases(200, lexicon=Lexicon(tokenizer(1)))
    assert {case.clean["year"] for case in found} == {f"{tens}9" for tens in range(9)}
    for case in found:
        assert case.correct[0] > case.clean["year"][0] >= case.incorrect[0]


@pytest.mark.parametrize("digits", [3, 4])
def test_years_whose_pieces_cross_the_century_are_not_asked_about(digits):
    lexicon = Lexicon(tokenizer(digits))
    assert not cases(lexicon=lexicon)
    assert [one.kept for one in lexicon.fillers if one.what.startswith("years")] == [0] * len(CENTURIES)


def test_every_digit_is_right_or_wrong_where_years_are_written_digit_by_digit():
    model = model_for("llama", "greater-than")
    prompts = greater_than().generate(model, 20, screen=False)
    for n, metadata in enumerate(prompts.metadata):
        tens = metadata["year"] // 10 % 10
        right, wrong = (
            {int(model.tokenizer.decode([token])) for token in tokens}
            for tokens in (prompts.correct_sets[n], prompts.incorrect_sets[n])
        )
        assert right == set(range(tens + 1, 10))
        assert wrong == set(range(tens + 1))


def test_a_seed_gives_its_cases_again_and_another_others():
    assert cases(seed=3) == cases(seed=3)
    assert cases(seed=3) != cases(seed=4)


def test_settings_are_in_the_name_and_unknown_ones_named():
    assert greater_than().name == "greater-than"
    assert greater_than(century=17).name == greater_than(century="17").name == "greater-than century=17"
    assert greater_than(template="started").name == "greater-than template=started"
    with pytest.raises(UnknownName, match="century of greater-than '18'"):
        greater_than(century=18)
    with pytest.raises(UnknownName, match="template of greater-than 'last'; did you mean lasted"):
        greater_than(template="last")


def test_the_published_sentence_is_the_default():
    values = {"noun": "war", "century": "17", "year": "32"}
    assert cases(1)[0].template.fill(values).text == "The war lasted from the year 1732 to the year 17"
