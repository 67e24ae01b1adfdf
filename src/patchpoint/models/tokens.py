"""Texts as tokens: ids, where each token stands in its text, spans, and answers in context.

Nothing here searches the strings of single tokens: one character may take several tokens, two ids may share a
text, and tokenizers differ in which token owns a space.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from patchpoint.errors import InvalidArgument, PromptError

from .offsets import Span, token_offsets


@dataclass(frozen=True)
class Encoded:
    """A text's token ids, and per token the half-open range of its characters in the text.

    A BOS token that was put in front has the empty range (0, 0). A character of several tokens is in the
    range of each. `bos`: the first id is the BOS token, put in front or written in the text.
    """

    ids: tuple[int, ...]
    offsets: tuple[Span, ...]
    bos: bool

    def __post_init__(self) -> None:
        assert self.ids
        assert len(self.ids) == len(self.offsets)


@dataclass(frozen=True)
class Answer:
    """An answer's ids as they follow its prompt.

    `differs_alone`: the answer's text, tokenised by itself as it was given, has other ids (most often because
    it was given without its leading space); scoring those would score another continuation.
    """

    ids: tuple[int, ...]
    differs_alone: bool

    def __post_init__(self) -> None:
        assert self.ids


def bos_habit(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer puts its BOS token in front of a text when left to itself."""
    if tokenizer.bos_token_id is None:
        return False
    with backend_state_kept(tokenizer):
        ids = tokenizer("a", verbose=False)["input_ids"]
    return bool(ids) and ids[0] == tokenizer.bos_token_id


def encode(tokenizer: PreTrainedTokenizerBase, text: str, bos: bool | None = None) -> Encoded:
    """Ids and character ranges of a prompt.

    `bos`: whether the BOS token comes first; None: the tokenizer's own habit. A text that already begins with
    the BOS string gets no second one. No other special token is added, at either end.
    Raises PromptError for an empty text, and for `bos=True` where the tokenizer has no BOS token.
    """
    check_text("prompt", text)
    if bos is None:
        bos = bos_habit(tokenizer)
    if bos and tokenizer.bos_token_id is None:
        raise PromptError("bos=True, but this tokenizer has no BOS token; leave bos out or give bos=False")
    with backend_state_kept(tokenizer):
        ids, offsets = token_offsets(tokenizer, text)
    if not ids:
        raise PromptError(f"prompt {text!r} has no tokens in this vocabulary; give another text")
    written = ids[0] == tokenizer.bos_token_id
    if bos and not written:
        ids, offsets = (tokenizer.bos_token_id, *ids), ((0, 0), *offsets)
    return Encoded(ids, offsets, bos or written)


def check_text(kind: str, text: str) -> None:
    """Refuse what no tokenizer can read: no string, an empty one, or half a surrogate pair."""
    if not isinstance(text, str):
        raise InvalidArgument(f"the {kind} must be a string, got {type(text).__name__}; give its text")
    if not text:
        raise PromptError(f"the {kind} is empty; give at least one token of text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"{kind} {text!r} is not Unicode text ({error.reason}); mend its encoding"
        ) from None


@contextmanager
def backend_state_kept(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Put the padding and truncation of a fast tokenizer back: each of its calls overwrites them."""
    if not tokenizer.is_fast:
        yield
        return
    backend = tokenizer.backend_tokenizer
    truncation, padding = backend.truncation, backend.padding
    try:
        yield
    finally:
        if truncation is not None:
            backend.enable_truncation(**truncation)
        if padding is not None:
            backend.enable_padding(**padding)


def span_of(encoded: Encoded, text: str, part: str) -> Span:
    """Half-open token span of the first whole-word occurrence of `part` in `text`.

    Where `part` never stands as a whole word (inside compounds, in scripts without spaces), of its first
    occurrence. A token counts when it covers any character of `part` that is not white space. `encoded` is
    `encode(tokenizer, text)`. Raises PromptError when `part` is blank or not in `text`.
    """
    check_text("subject", part)
    if part.isspace():
        raise PromptError(f"the subject {part!r} is blank; give the words of the prompt that name it")
    return tokens_between(encoded, text, *find_words(text, part))


def tokens_between(encoded: Encoded, text: str, start: int, stop: int) -> Span:
    """Half-open token span of the characters `start` to `stop` of `text` that are not white space.

    `encoded` is `encode(tokenizer, text)`. Raises PromptError when no token stands for them.
    """
    wanted = {place for place in range(start, stop) if not text[place].isspace()}
    tokens = [
        i for i, (first, last) in enumerate(encoded.offsets) if not wanted.isdisjoint(range(first, last))
    ]
    if not tokens:
        raise PromptError(
            f"no token of the prompt {text!r} stands for {text[start:stop]!r}; give another subject"
        )
    return tokens[0], tokens[-1] + 1


def find_words(text: str, part: str) -> Span:
    """Character range of `part` in `text`, whole words before parts of words."""
    before = r"(?<!\w)" if re.match(r"\w", part) else ""
    after = r"(?!\w)" if re.search(r"\w\Z", part) else ""
    found = re.search(before + re.escape(part) + after, text) or re.search(re.escape(part), text)
    if found is None:
        raise PromptError(
            f"subject {part!r} is not in the prompt {text!r}; give the exact text{near(text, part)}"
        )
    return found.span()


def near(text: str, part: str) -> str:
    """Why an exact search may have failed, for the end of a message."""
    if unicodedata.normalize("NFC", part) in unicodedata.normalize("NFC", text):
        return " (it is there in another Unicode normal form)"
    if part.casefold() in text.casefold():
        return " (it is there in other letter case)"
    if part.strip() in text:
        return " (it is there without the white space around it)"
    return ""


def answer_ids(
    tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str, bos: bool | None = None
) -> Answer:
    """The ids with which `answer` continues `prompt`: those of both together after those of the prompt.

    One space is put between them when neither side has white space there. Raises PromptError when the answer
    is blank, when it becomes a special or unknown token, and when the prompt's last token merges with it.
    """
    ids = continuation_ids(tokenizer, prompt, continuation(prompt, answer), bos)
    return Answer(ids, differs_alone=encode(tokenizer, answer, bos=False).ids != ids)


def continuation(prompt: str, answer: str) -> str:
    """An answer as it follows its prompt: behind one space when neither side has white space there."""
    check_text("prompt", prompt)
    check_text("answer", answer)
    return answer if prompt[-1].isspace() or answer[0].isspace() else f" {answer}"


def continuation_ids(
    tokenizer: PreTrainedTokenizerBase, prompt: str, text: str, bos: bool | None = None
) -> tuple[int, ...]:
    """The ids with which exactly `text` continues `prompt`. Raises PromptError as `answer_ids` does."""
    check_text("answer", text)
    if text.isspace():
        raise PromptError(f"the answer {text!r} is blank; give the text that continues the prompt")
    before = encode(tokenizer, prompt, bos).ids
    both = encode(tokenizer, prompt + text, bos).ids
    if both[: len(before)] != before:
        raise PromptError(
            f"the end of the prompt {prompt[-20:]!r} and the answer {text!r} share a token, so the "
            "prompt's ids change with it; move the boundary (most often: end the prompt without a space)"
        )
    ids = both[len(before) :]
    if not ids or not set(ids).isdisjoint(tokenizer.all_special_ids):
        raise PromptError(
            f"the answer {text!r} has no ordinary token in this vocabulary; give another answer"
        )
    return ids


def common_leading(correct: Sequence[int], incorrect: Sequence[int]) -> tuple[int, ...]:
    """Ids that two answers share at their beginning, to be moved into the prompt before these are compared.

    Raises PromptError when one answer begins the other (or is it): then no single token tells them apart.
    """
    for n, (mine, other) in enumerate(zip(correct, incorrect, strict=False)):
        if mine != other:
            return tuple(correct[:n])
    raise PromptError(
        f"answers with ids {list(correct)} and {list(incorrect)} have no token that tells them apart, as one "
        "begins the other; give answers that differ before the shorter one ends"
    )


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[str, ...]:
    """Readable text of each token, its leading space kept: labels, not keys, since two ids may share a text.

    Part of a character shows as U+FFFD, a special token as its name, an id beyond the vocabulary as `<id>`.
    """
    texts = {int(token): token_text(tokenizer, int(token)) for token in set(ids)}
    return tuple(texts[int(token)] for token in ids)


def token_text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """The text of one token inside a text, which is not always its text at the beginning of one."""
    name = tokenizer.convert_ids_to_tokens(token)
    if name is None:
        return f"<{token}>"
    if token in tokenizer.all_special_ids:
        return str(name)
    once, twice = (
        str(tokenizer.decode([token] * n, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        for n in (1, 2)
    )
    return twice.removeprefix(once) if twice.startswith(once) else once


def check_length(n_tokens: int, max_tokens: int | None) -> None:
    """Refuse a prompt that is longer than the model's positions reach."""
    if max_tokens is not None and n_tokens > max_tokens:
        raise PromptError(
            f"the prompt has {n_tokens} tokens, the model reads at most {max_tokens}; shorten it"
        )
