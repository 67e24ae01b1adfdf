"""Templates, lexicons and alignment: parts are where they are said to be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import patchpoint as pp
from made_tokenizers import byte_level
from patchpoint.models.tokens import encode
from patchpoint.tasks.alignment import Misfit, align
from patchpoint.tasks.lexicon import Lexicon
from patchpoint.tasks.template import Filled, Template
from words import tiny_model, word_tokenizer

WORDS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8)


@given(st.lists(st.tuples(st.text(max_size=5), WORDS), min_size=1, max_size=5))
def test_a_filled_template_holds_each_value_where_it_says(parts):
    literals = [literal.replace("{", "{{").replace("}", "}}") for literal, _ in parts]
    template = Template("t", "".join(f"{literal}{{s{i}}}" for i, literal in enumerate(literals)))
    filled = template.fill({f"s{i}": value for i, (_, value) in enumerate(parts)})
    assert filled.text == "".join(literal + value for literal, value in parts)
    for i, (_, value) in enumerate(parts):
        start, stop = filled.places[f"s{i}"]
        assert filled.text[start:stop] == value


def test_a_slot_that_returns_has_a_place_each_time():
    filled = Template("t", "{name} met {other}. {name} and {name}").fill({"name": "Ann", "other": "Bob"})
    assert filled.text == "Ann met Bob. Ann and Ann"
    assert filled.places == {"name": (0, 3), "other": (8, 11), "name#2": (13, 16), "name#3": (21, 24)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "no slot's name"),
        ("{a!r}", "no slot's name"),
        ("{a:>3}", "no slot's name"),
        ("{a", "double a brace"),
        ("", "empty"),
    ],
)
def test_texts_that_are_no_templates_are_refused(text, message):
    with pytest.raises(pp.PatchpointError, match=message):
        Template("t", text)


def test_a_missing_value_is_named():
    with pytest.raises(pp.PatchpointError, match="no value for b, c"):
        Template("t", "{a}{b}{c}").fill({"a": "1", "b": ""})


def test_words_fit_where_they_stand_and_not_by_themselves():
    # "in" is one token behind a space here, and two at the beginning of a text.
    tokenizer = byte_level()
    inside, first = Template("inside", "the {w} city"), Template("first", "{w} city")
    assert len(encode(tokenizer, " in", bos=False).ids) == 1
    assert len(encode(tokenizer, "in", bos=False).ids) == 2
    lexicon = Lexicon(tokenizer)
    assert lexicon.fitting("words", ["in", "drink"], [(inside, "w")]) == ("in",)
    assert lexicon.fitting("words", ["in", "drink"], [(inside, "w"), (first, "w")]) == ()
    assert [str(line) for line in lexicon.fillers] == [
        "words: 1 of 2 take one token where they stand",
        "words: 0 of 2 take one token where they stand",
    ]
    assert lexicon.fillers[0].dropped == ("drink",)


def test_the_number_of_tokens_that_most_words_take_can_be_asked_for():
    lexicon = Lexicon(byte_level())
    place = [(Template("t", "it is {w}."), "w")]
    assert lexicon.fitting("numbers", ["111", "222", "7", "333"], place, n_tokens=None) == (
        "111",
        "222",
        "333",
    )
    assert lexicon.fillers[0].n_tokens == 3


def test_a_word_whose_token_reaches_into_its_neighbour_does_not_fit():
    # Offsets of "Paris" and what is glued to it: in "xParis" the word has tokens of its own, in "Pari{w}" not.
    lexicon = Lexicon(word_tokenizer())
    assert lexicon.fitting("words", ["w1"], [(Template("t", "w2 {w} w3"), "w")]) == ("w1",)
    assert lexicon.fitting("words", ["1"], [(Template("t", "w2 w{w} w3"), "w")]) == ()


def filled(text, **places):
    return Filled(
        text, {role: (text.index(part), text.index(part) + len(part)) for role, part in places.items()}
    )


@pytest.mark.parametrize(
    ("clean", "corrupt", "answers", "reason"),
    [
        (filled("w1 w2", a="w2"), filled("w1 w2 w3", a="w2"), ("w4", "w5"), "another number of tokens"),
        (filled("w1 w2", a="w2"), filled("w1 w2", a="w2"), ("w4", "w5"), "twin is the same"),
        (filled("w1 w2", a="w2"), filled("w3 w4", a="w4"), ("w4", "w5"), "outside the parts"),
        (filled("w1 w2 w3", a="w2"), filled("w1 w4 w2", a="w2"), ("w4", "w5"), "other tokens in the twin"),
        (filled("w1 w2", a="w2"), filled("w1 w3", a="w3"), ("w4", "w4"), "told apart"),
        (filled("w1 w2", a="w2"), filled("w1 w3", a="w3"), ("w4 w5", "w4"), "told apart"),
    ],
)
def test_misfits_are_told_apart(clean, corrupt, answers, reason):
    with pytest.raises(Misfit) as error:
        align(tiny_model("gpt2"), clean, corrupt, *(f" {answer}" for answer in answers))
    assert reason in error.value.reason


def test_sets_of_answers_hold_the_tokens_that_say_only_one_thing():
    pair = align(
        tiny_model("gpt2"),
        filled("w1 w2", a="w2"),
        filled("w1 w3", a="w3"),
        " w10 w11",
        " w20",
        also_correct=[" w12", " w30 w31"],
        also_incorrect=[" w21", " w30 w32"],
    )
    assert (pair.correct, pair.incorrect) == (10, 20)
    assert pair.correct_set == (10, 12)
    assert pair.incorrect_set == (20, 21)


def test_sets_of_answers_stand_behind_the_shared_tokens():
    pair = align(
        tiny_model("gpt2"),
        filled("w1 w2", a="w2"),
        filled("w1 w3", a="w3"),
        " w5 w10",
        " w5 w20",
        also_correct=[" w5 w12", " w40"],
        also_incorrect=[" w5 w21", " w6 w22"],
    )
    assert pair.clean == (1, 2, 5)
    assert pair.corrupt == (1, 3, 5)
    assert pair.correct_set == (10, 12)
    assert pair.incorrect_set == (20, 21)
    assert pair.n_shared == 1


def test_an_answer_that_begins_like_a_wrong_one_is_refused():
    with pytest.raises(Misfit, match="begin with tokens"):
        align(
            tiny_model("gpt2"),
            filled("w1 w2", a="w2"),
            filled("w1 w3", a="w3"),
            " w10 w11",
            " w20",
            also_incorrect=[" w10 w12"],
        )
