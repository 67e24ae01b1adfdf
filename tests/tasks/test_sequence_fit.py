"""Sequences in a tokenizer's eyes: windows that are written alike, slot by slot, and words that fit."""

from itertools import islice
from random import Random

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from patchpoint.models.tokens import encode
from patchpoint.tasks.kinds import sequences
from patchpoint.tasks.kinds.members import ENGLISH_MONTHS, NUMERALS
from patchpoint.tasks.kinds.orders import ORDERS, Progression
from patchpoint.tasks.kinds.sequence_fit import fit
from patchpoint.tasks.kinds.sequence_texts import FORMS
from patchpoint.tasks.kinds.sequence_twins import random_members, swapped_members
from patchpoint.tasks.kinds.words import MONTHS, NOUNS, first_names
from patchpoint.tasks.lexicon import Lexicon

KNOWN = [*first_names()[:60], *NOUNS[:60], "born", "lost", "done", "was", "in", ".", ","]


def tokenizer(*words, pairs=()):
    """Words of one token each, digits one by one, other text letter by letter.

    `pairs`: texts of two digits that are one token.
    """
    characters = [chr(code) for code in range(33, 127)]
    vocab = dict.fromkeys(["<unk>", *characters, *words, *pairs])
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocab)}, unk_token="<unk>"))
    known = "|".join(sorted([*words, *pairs], key=len, reverse=True)).replace(".", r"\.")
    pieces = Regex(rf"({known})(?![A-Za-z0-9])|.")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(pieces, behavior="isolated")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def steps(order, first, last, vocabulary=NUMERALS, shown=4):
    return Progression.of_steps(vocabulary, ORDERS[order], shown, first, last)


def fitted(made, progression, form="pure"):
    template = FORMS[form][0].template(progression.n_shown, "in")
    lexicon = Lexicon(made)
    return fit(lexicon, progression, [template]), lexicon


def cases_of(task, made, corruption="random", n=100):
    return list(islice(task.cases(Lexicon(made), corruption, Random(0)), n))


def starts(found):
    return sorted(window[0] for window in found.windows)


def test_windows_that_reach_numbers_of_two_tokens_are_left_out():
    found, lexicon = fitted(tokenizer(*KNOWN), steps("+1", 1, 12))
    assert starts(found) == [1, 2, 3, 4, 5, 6]
    assert found.pools == (tuple(range(1, 10)),) * 4
    assert [str(line) for line in lexicon.fillers] == ["numerals: 9 of 12 take one token where they stand"]


def test_the_pattern_of_most_windows_is_taken():
    found, lexicon = fitted(tokenizer(*KNOWN), steps("x2", 1, 200))
    # 5 10 20 40 to 9 18 36 72: five windows of one digit and then two; 10 20 40 80 to 12 24 48 96 are three.
    assert starts(found) == [5, 6, 7, 8, 9]
    assert set(found.pools[0]) == set(range(1, 10))
    assert all(10 <= value <= 99 for pool in found.pools[1:] for value in pool)
    assert [line.n_tokens for line in lexicon.fillers] == [1, 2]


def test_a_vocabulary_of_whole_numbers_has_all_windows():
    found, _ = fitted(tokenizer(*KNOWN, pairs=["10", "11", "12"]), steps("+1", 1, 12))
    assert starts(found) == list(range(1, 9))
    assert found.pools == (tuple(range(1, 13)),) * 4


@pytest.mark.parametrize("corruption", ["random", "swapped"])
@pytest.mark.parametrize("order", ["+1", "x2", "-1", "+10"])
@pytest.mark.parametrize("template", ["statements", "pure"])
def test_twins_have_the_same_numbers_of_tokens_in_each_slot(corruption, order, template):
    made = tokenizer(*KNOWN)
    cases = cases_of(sequences.numerals(order=order, template=template), made, corruption)
    assert cases
    lengths = set()
    for case in cases:
        for values in (case.clean, case.corrupt):
            places = case.template.fill(values).places
            pieces = [places[f"S{i}"] for i in range(1, 5)]
            encoded = encode(made, case.template.fill(values).text)
            lengths.add(
                tuple(sum(a < stop and b > start for a, b in encoded.offsets) for start, stop in pieces)
            )
    assert len(lengths) == 1


def test_sentences_stay_in_step_where_windows_are_left_out():
    made = tokenizer(*KNOWN, *MONTHS)
    numerals = {case.number: case for case in cases_of(sequences.numerals(), made)}
    months = {case.number: case for case in cases_of(sequences.months(), made, n=140)}
    assert {case.group for case in months.values()} == set(MONTHS[:8])
    assert {case.group for case in numerals.values()} == set("123456")
    assert set(numerals) < set(months)
    for sentence, case in numerals.items():
        other = months[sentence]
        assert MONTHS[int(case.group) - 1] == other.group
        assert case.template == other.template
        for slot in ("X1", "X2", "X3", "X4", "X5"):
            assert case.clean[slot] == other.clean[slot]


def test_other_words_take_one_token_and_templates_without_enough_are_left_out():
    names = first_names()[:60]
    made = tokenizer(*names, "Apple", "Arm", "born", "lost", "done")
    cases = cases_of(sequences.numerals(), made)
    assert {case.template.name for case in cases} == {"born"}
    assert {case.clean[f"X{i}"] for case in cases for i in range(1, 6)} <= set(names)
    assert cases_of(sequences.numerals(template="lost"), made) == []
    assert cases_of(sequences.numerals(template="pure"), made)


def test_members_that_no_window_can_show_alike_make_no_cases():
    long = Progression.of_steps(ENGLISH_MONTHS, ORDERS["+1"], 4, 1, 12)
    swallowing = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    made = PreTrainedTokenizerFast(tokenizer_object=swallowing, unk_token="<unk>")
    assert fitted(made, long)[0] is None
    assert cases_of(sequences.months(template="pure"), made) == []
    assert cases_of(sequences.months(), made) == []


def test_there_is_no_twin_where_members_cannot_break_the_sequence():
    only = steps("+1", 1, 5)
    pools = ((1,), (2,), (3,), (4,))
    assert random_members(only, pools, (1, 2, 3, 4, 5), Random(0)) is None
    assert swapped_members(only, pools, (1, 2, 3, 4, 5), Random(0)) is None


def test_cases_end_where_no_window_has_a_twin():
    # One token for "one", three for "two", five for "three", four for "four": none can stand in another's place.
    task = sequences.numwords(template="between", first=1, last=5)
    made = tokenizer(*(noun.lower() for noun in NOUNS), "one")
    assert cases_of(task, made, "swapped", n=20) == []
