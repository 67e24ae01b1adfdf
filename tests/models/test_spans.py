"""Where tokens stand in their text, and which of them make up a part of it."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from made_tokenizers import KINDS, SlowPairs, byte_level, zero_width
from patchpoint.errors import PromptError
from patchpoint.models.offsets import decoded_offsets
from patchpoint.models.tokens import (
    encode,
    span_of,
)

MADE = {kind: make() for kind, make in KINDS.items()}


WORDS = st.sampled_from(
    [
        "The",
        "the",
        "of",
        "Paris",
        "Eiffel",
        "Beyoncé",
        "naïve",
        "東京",
        "の",
        "🙂",
        "🇩🇪",
        "Zürich",
        "x",
        "12",
        "e\u0301a",
    ]
)


SPACES = st.sampled_from([" ", "  ", ", ", "\n"])


each_kind = pytest.mark.parametrize("kind", KINDS)


often = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def texts_with_parts(draw):
    words = draw(st.lists(WORDS, min_size=1, max_size=7))
    gaps = draw(st.lists(SPACES, min_size=len(words) - 1, max_size=len(words) - 1))
    text = words[0] + "".join(gap + word for gap, word in zip(gaps, words[1:], strict=True))
    starts = [0]
    for word, gap in zip(words, gaps, strict=False):
        starts.append(starts[-1] + len(word) + len(gap))
    first = draw(st.integers(0, len(words) - 1))
    last = draw(st.integers(first, len(words) - 1))
    return text, text[starts[first] : starts[last] + len(words[last])]


def pieces(kind, tokenizer, ids):
    """The bytes of each token, read off the vocabulary: what the offsets are checked against."""
    names = tokenizer.convert_ids_to_tokens(list(ids))
    if kind == "slow-pairs":
        return [bytes.fromhex(name) for name in names]
    if kind in ("byte-level", "zero-width"):
        return [bytes(gpt2_byte(character) for character in name) for name in names]
    byte = re.compile(r"<0x(..)>")
    return [
        bytes.fromhex(found[1]) if (found := byte.fullmatch(name)) else name.replace("▁", " ").encode()
        for name in names
    ]


def gpt2_byte(character):
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in plain}
    table |= {chr(256 + i): byte for i, byte in enumerate(sorted(set(range(256)) - set(plain)))}
    return table[character]


def byte_ranges(kind, tokenizer, encoded, text):
    """Per token the visible characters any of its bytes belongs to, by counting bytes."""
    raw = pieces(kind, tokenizer, encoded.ids[encoded.bos :])
    place = len(text.encode()) - sum(map(len, raw))  # -1 where the vocabulary puts a space in front
    owner = [i for i, character in enumerate(text) for _ in character.encode()]
    ranges = [set()] * encoded.bos
    for piece in raw:
        owners = {owner[i] for i in range(place, place + len(piece)) if i >= 0}
        ranges.append({i for i in owners if not text[i].isspace()})
        place += len(piece)
    return ranges


def first_whole(text, part):
    """Where the first occurrence of `part` begins that no letter or digit touches."""

    def joined(left, right):
        return all(character.isalnum() for character in (left, right))

    for i in range(len(text)):
        before, after = text[i - 1 : i] or " ", text[i + len(part) : i + len(part) + 1] or " "
        if text.startswith(part, i) and not joined(before, part[0]) and not joined(part[-1], after):
            return i
    raise AssertionError(part)


@each_kind
@often
@given(given_=texts_with_parts())
def test_r45_spans_hold_exactly_the_tokens_of_the_part(kind, given_):
    text, part = given_
    encoded = encode(MADE[kind], text)
    start, stop = span_of(encoded, text, part)
    ranges = byte_ranges(kind, MADE[kind], encoded, text)
    place = first_whole(text, part)
    found = {i for i in range(place, place + len(part)) if not text[i].isspace()}
    assert found <= set().union(*ranges[start:stop])
    assert found & ranges[stop - 1]
    outside = set().union(*ranges[:start], *ranges[stop:])
    assert not found & outside
    # A space put in front of the text is part of its first character by the tokenizers library's account.
    in_front = kind == "metaspace" and start == 1
    assert found & ranges[start] or in_front


@each_kind
@often
@given(given_=texts_with_parts())
def test_r46_offsets_are_those_of_the_bytes(kind, given_):
    text, _ = given_
    encoded = encode(MADE[kind], text)
    visible = [{i for i in range(*span) if not text[i].isspace()} for span in encoded.offsets]
    counted = byte_ranges(kind, MADE[kind], encoded, text)
    first = 1 + encoded.bos if kind == "metaspace" else 0
    assert visible[first:] == counted[first:]
    if kind != "slow-pieces":
        rebuilt = ""
        for start, stop in encoded.offsets:
            rebuilt += text[max(start, len(rebuilt)) : stop]
        assert rebuilt == text


@each_kind
@often
@given(given_=texts_with_parts())
def test_ids_are_the_tokenizers_own(kind, given_):
    text, _ = given_
    tokenizer = MADE[kind]
    assert list(encode(tokenizer, text).ids) == tokenizer(text)["input_ids"]
    assert (
        list(encode(tokenizer, text, bos=False).ids) == tokenizer(text, add_special_tokens=False)["input_ids"]
    )


@pytest.mark.parametrize("kind", ["byte-level", "metaspace"])
@often
@given(given_=texts_with_parts())
def test_decoding_finds_the_offsets_that_fast_tokenizers_report(kind, given_):
    text, _ = given_
    encoded = encode(MADE[kind], text, bos=False)
    first = 1 if kind == "metaspace" else 0
    assert decoded_offsets(MADE[kind], encoded.ids, text)[first:] == encoded.offsets[first:]


@each_kind
@pytest.mark.parametrize(
    ("text", "part", "place"),
    [
        ("Beyoncé is naïve", "Beyoncé", 0),
        ("x Zürich x", "Zürich", 2),
        ("in 東京 の", "東京", 3),
        ("the other mother", "mother", 10),
        ("The mother of the other is the", "the", 14),
        ("Paris is Paris", "Paris", 0),
        ("Parisian Paris", "Paris", 9),
        ("🙂🙂", "🙂", 0),
        ("Parisian", "Paris", 0),
        ("a C++ x", "C++", 2),
        ("the city of x", "city ", 4),
        ("the city of x", " city", 3),
    ],
)
def test_r45_the_first_whole_word_is_meant(kind, text, part, place):
    tokenizer = MADE[kind]
    encoded = encode(tokenizer, text)
    start, stop = span_of(encoded, text, part)
    ranges = byte_ranges(kind, tokenizer, encoded, text)
    wanted = {i for i in range(place, place + len(part)) if not text[i].isspace()}
    touching = [i for i, characters in enumerate(ranges) if characters & wanted]
    in_front = kind == "metaspace" and place == 0 and start == 1
    assert (start, stop) == (1 if in_front else touching[0], touching[-1] + 1)


def test_r46_zero_width_offsets_give_the_right_span():
    text = "The Eiffel Tower is in the city of"
    assert encode(zero_width(), text) == encode(byte_level(), text)


def test_an_unknown_character_keeps_the_other_offsets():
    class Lossy(SlowPairs):
        def convert_tokens_to_string(self, tokens):
            return super().convert_tokens_to_string(tokens).replace("東京", "?")

    text = "In 東京東京東京 today it is"
    encoded = encode(Lossy(), text)
    exact = encode(SlowPairs(), text)
    assert Lossy().decode(encoded.ids) == "In ??? today it is"
    for part in ("In", "today", "it", "is"):
        assert span_of(encoded, text, part) == span_of(exact, text, part)
    start, stop = span_of(encoded, text, "東京東京東京")
    within = span_of(exact, text, "東京東京東京")
    assert start <= within[0]
    assert stop >= within[1]


@pytest.mark.parametrize(
    ("part", "hint"),
    [
        ("Eifel", "exact text$"),
        ("eiffel", "letter case"),
        ("Eiffel ", "white space"),
        ("Cafe\u0301", "normal form"),
    ],
)
def test_a_missing_subject_is_named_with_a_reason(part, hint):
    text = "Café\nEiffel"
    with pytest.raises(PromptError, match=f"is not in the prompt .*{hint}") as caught:
        span_of(encode(byte_level(), text), text, part)
    assert "\n" not in str(caught.value)
    assert repr(part) in str(caught.value)
