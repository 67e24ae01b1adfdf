"""Texts as tokens: BOS, answers in context, labels, on every kind of tokenizer."""

import json

import pytest

from made_tokenizers import KINDS, SlowPieces, byte_level, metaspace
from patchpoint.errors import InvalidArgument, PromptError
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


each_kind = pytest.mark.parametrize("kind", KINDS)


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
