"""Texts as tokens: BOS, spans, answers in context, on every kind of tokenizer."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from made_tokenizers import KINDS, SlowPairs, SlowPieces, byte_level, metaspace, zero_width
from patchpoint.errors import InvalidArgument, PromptError
from patchpoint.models.offsets import decoded_offsets
from patchpoint.models.tokens import (
    Answer,
    Encoded,
    answer_ids,
    bos_habit,
    check_length,
    common_leading,
    encode,
    span_of,
    token_texts,
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


@pytest.mark.parametrize("make", [metaspace, SlowPieces])
def test_r06_never_two_bos(make):
    tokenizer = make()
    plain = tokenizer("The city", add_special_tokens=False)["input_ids"]
    bos = tokenizer.bos_token_id
    assert encode(tokenizer, "The city").ids == (bos, *plain)
    assert encode(tokenizer, "The city", bos=True).ids == (bos, *plain)
    assert encode(tokenizer, "The city", bos=False).ids == tuple(plain)
    written = encode(tokenizer, "<s>The city")
    assert written.bos
    assert written.ids.count(bos) == 1
    assert written.ids[0] == bos


def test_r06_bos_only_where_asked_or_usual():
    tokenizer = byte_level()
    assert not bos_habit(tokenizer)
    assert not encode(tokenizer, "The city").bos
    asked = encode(tokenizer, "The city", bos=True)
    assert asked.ids == (tokenizer.bos_token_id, *encode(tokenizer, "The city").ids)
    assert asked.offsets[0] == (0, 0)
    assert span_of(asked, "The city", "The")[0] == 1
    written = encode(tokenizer, "<|endoftext|>The city")
    assert written.bos
    assert written.ids == asked.ids
    assert encode(tokenizer, "<|endoftext|>The city", bos=True) == written


def test_r09_tokenizer_without_bos_leaves_ids_unchanged():
    tokenizer = byte_level(bos=False)
    plain = tuple(tokenizer("The city")["input_ids"])
    for bos in (None, False):
        assert encode(tokenizer, "The city", bos=bos) == Encoded(
            plain, encode(tokenizer, "The city").offsets, False
        )
    with pytest.raises(PromptError, match="no BOS token"):
        encode(tokenizer, "The city", bos=True)


@pytest.mark.parametrize(
    ("tokenizer", "bos"),
    [
        (byte_level(wrap="$A <|endoftext|>"), 0),
        (metaspace(wrap="<s> $A </s>"), 1),
        (metaspace(wrap="$A </s>"), 0),
    ],
)
def test_no_eos_is_put_at_the_end_of_a_prompt(tokenizer, bos):
    encoded = encode(tokenizer, "The city")
    assert encoded.bos == bos
    assert tokenizer.eos_token_id not in encoded.ids[bos:]


@pytest.mark.parametrize("make", [byte_level, metaspace, SlowPieces, lambda: metaspace(wrap="<s> $A </s>")])
def test_r08_answers_hold_no_special_id(make):
    tokenizer = make()
    for bos in (None, True, False):
        answer = answer_ids(tokenizer, "The Tower is in the city of", "Paris", bos)
        assert answer.ids
        assert not set(answer.ids) & set(tokenizer.all_special_ids)
    with pytest.raises(PromptError, match="no ordinary token"):
        answer_ids(tokenizer, "The city of", tokenizer.bos_token, False)


@each_kind
def test_r39_the_tokenizer_is_the_same_after_use(kind):
    tokenizer = KINDS[kind]()
    # The slow ones cut in twos: with this the prompt ends where a token ends.
    text = "The Eiffel Tower is in the city of" + "f" * (kind == "slow-pieces")
    alone, answer = encode(tokenizer, text), answer_ids(tokenizer, text, "Tower")
    tokenizer.padding_side = "left"
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.enable_truncation(3)
        tokenizer.backend_tokenizer.enable_padding(length=5, pad_id=7)

    def state():
        backend = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else tokenizer.get_vocab()
        return backend, tokenizer.padding_side, tokenizer.pad_token, dict(tokenizer.special_tokens_map)

    before = state()
    encoded = encode(tokenizer, text)
    assert answer_ids(tokenizer, text, "Tower") == answer
    token_texts(tokenizer, encoded.ids)
    assert state() == before
    assert encode(tokenizer, text) == alone == encoded
    assert len(encoded.ids) > 5


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


def test_r48_answers_are_taken_in_context():
    tokenizer = byte_level()
    prompt = "The Eiffel Tower is in the city of"
    spaced, bare = answer_ids(tokenizer, prompt, " Paris"), answer_ids(tokenizer, prompt, "Paris")
    whole = encode(tokenizer, prompt + " Paris").ids
    assert spaced.ids == bare.ids == whole[len(encode(tokenizer, prompt).ids) :]
    assert (spaced.differs_alone, bare.differs_alone) == (False, True)
    assert tokenizer.decode(bare.ids) == " Paris"


def test_r48_a_boundary_that_merges_is_refused():
    tokenizer = byte_level()
    with pytest.raises(PromptError, match="share a token"):
        answer_ids(tokenizer, "The city ", "of")
    assert answer_ids(tokenizer, "The city", "of") == Answer(encode(tokenizer, " of").ids, True)


def test_shared_leading_ids_move_into_the_prompt():
    assert common_leading((216, 37), (216, 38)) == (216,)
    assert common_leading([5, 6], [7]) == ()
    for same in ([1, 2], [1, 2]), ([1], [1, 2]), ([1, 2], [1]):
        with pytest.raises(PromptError, match="tells them apart"):
            common_leading(*same)


@each_kind
def test_token_texts_put_together_are_the_text(kind):
    text = "The Eiffel Tower is in the city of Paris"
    tokenizer = MADE[kind]
    encoded = encode(tokenizer, text, bos=False)
    assert "".join(token_texts(tokenizer, encoded.ids)).lstrip() == text


def test_r47_two_ids_may_show_the_same_text():
    tokenizer = byte_level()
    ids = encode(tokenizer, "東京").ids
    texts = token_texts(tokenizer, ids)
    assert len(texts) == len(ids)
    assert len(set(texts)) < len(set(ids))
    assert token_texts(tokenizer, [0, 100_000]) == ("<|endoftext|>", "<100000>")


@pytest.mark.parametrize(
    ("text", "kind"),
    [("", PromptError), (5, InvalidArgument), (None, InvalidArgument), ("a\ud800", PromptError)],
)
def test_r59_texts_that_no_tokenizer_reads(text, kind):
    tokenizer = byte_level()
    encoded = encode(tokenizer, "The city")
    for call in (
        lambda: encode(tokenizer, text),
        lambda: span_of(encoded, "The city", text),
        lambda: answer_ids(tokenizer, "The city", text),
    ):
        with pytest.raises(kind) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_r59_blank_parts_and_lengths():
    tokenizer = byte_level()
    encoded = encode(tokenizer, "x")
    assert len(encoded.ids) == 1
    assert span_of(encoded, "x", "x") == (0, 1)
    with pytest.raises(PromptError, match="blank"):
        span_of(encoded, "x", " ")
    with pytest.raises(PromptError, match="blank"):
        answer_ids(tokenizer, "x", " \n")
    check_length(64, 64)
    check_length(65, None)
    with pytest.raises(PromptError, match="65 tokens, the model reads at most 64; shorten"):
        check_length(65, 64)


def test_labels_and_ids_survive_json():
    tokenizer = byte_level()
    encoded = encode(tokenizer, "東京 🙂")
    assert json.loads(json.dumps([encoded.ids, token_texts(tokenizer, encoded.ids)]))[0] == list(encoded.ids)
