"""A clean text and its corrupted twin in tokens: of one length, different only where they should be, with answers."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from patchpoint.engine import Model
from patchpoint.errors import PromptError
from patchpoint.models.tokens import (
    Encoded,
    check_length,
    common_leading,
    continuation_ids,
    encode,
    tokens_between,
)

from .template import Filled

Span = tuple[int, int]


class Misfit(PromptError):
    """A pair that cannot be aligned; `reason` says why without its texts, so that misfits can be counted."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Pair:
    """One prompt and its twin in tokens, the tokens that the two answers share moved to the end of both."""

    texts: tuple[str, str]
    """Clean and corrupted, as they were written."""
    answers: tuple[str, str]
    """Correct and incorrect, as they follow the clean text."""
    clean: tuple[int, ...]
    corrupt: tuple[int, ...]
    correct: int
    incorrect: int
    correct_set: tuple[int, ...]
    """Tokens with which only correct answers go on, `correct` first."""
    incorrect_set: tuple[int, ...]
    spans: Mapping[str, Span]
    """By role; `changed` is all from the first to the last token in which the twins differ."""
    corrupted_roles: tuple[str, ...]
    answer: tuple[int, ...]
    """All ids of the correct answer after the written text."""
    n_shared: int
    """How many of them stand at the end of the prompts."""


def align(
    model: Model,
    clean: Filled,
    corrupt: Filled,
    correct: str,
    incorrect: str,
    *,
    also_correct: Iterable[str] = (),
    also_incorrect: Iterable[str] = (),
    bos: bool | None = None,
) -> Pair:
    """Tokens of a pair. Answers are exact continuations of the clean text.

    Both texts have their roles at the same tokens, and differ in no token outside the roles whose texts differ
    (texts without roles may differ anywhere). Raises Misfit, a PromptError, where that cannot be had.
    """
    with _as_misfit("answers cannot be told apart in tokens"):
        right, wrong = (
            continuation_ids(model.tokenizer, clean.text, answer, bos) for answer in (correct, incorrect)
        )
        shared = common_leading(right, wrong)
    with _as_misfit("the text has no tokens"):
        encoded, twin = (encode(model.tokenizer, filled.text, bos) for filled in (clean, corrupt))
    ids, twin_ids = (*encoded.ids, *shared), (*twin.ids, *shared)
    with _as_misfit("longer than the model reads"):
        check_length(len(ids), model.max_tokens)
    if len(ids) != len(twin_ids):
        raise Misfit(
            "the twin has another number of tokens",
            f"the clean prompt has {len(ids)} tokens and its corrupted twin {len(twin_ids)}; give texts of "
            "equal length",
        )
    differ = [p for p, (a, b) in enumerate(zip(ids, twin_ids, strict=True)) if a != b]
    if not differ:
        raise Misfit(
            "the twin is the same", f"the clean prompt and its corrupted twin are the same: {clean.text!r}"
        )
    spans, corrupted = _roles(encoded, twin, clean, corrupt, differ)
    rights, wrongs = (
        _first_tokens(model, clean.text, texts, shared, bos) for texts in (also_correct, also_incorrect)
    )
    rights, wrongs = {right[len(shared)], *rights}, {wrong[len(shared)], *wrongs}
    if right[len(shared)] in wrongs or wrong[len(shared)] in rights:
        raise Misfit(
            "answers cannot be told apart in tokens",
            f"{correct!r} and {incorrect!r} begin with tokens of wrong and of right answers; give others",
        )
    return Pair(
        (clean.text, corrupt.text),
        (correct, incorrect),
        ids,
        twin_ids,
        right[len(shared)],
        wrong[len(shared)],
        _with_first(right[len(shared)], rights - wrongs),
        _with_first(wrong[len(shared)], wrongs - rights),
        spans,
        corrupted,
        right,
        len(shared),
    )


@contextmanager
def _as_misfit(reason: str) -> Iterator[None]:
    try:
        yield
    except PromptError as error:
        raise Misfit(reason, str(error)) from error


def _roles(
    encoded: Encoded, twin: Encoded, clean: Filled, corrupt: Filled, differ: list[int]
) -> tuple[dict[str, Span], tuple[str, ...]]:
    """Spans by role, the same in both, and the roles that differ."""
    hull = (differ[0], differ[-1] + 1)
    if not clean.places:
        return {"changed": hull}, ("changed",)
    with _as_misfit("a part of the text has no tokens of its own"):
        spans, others = (
            {role: tokens_between(one, filled.text, *place) for role, place in filled.places.items()}
            for one, filled in ((encoded, clean), (twin, corrupt))
        )
    if spans != others:
        role = next(role for role in spans if spans[role] != others.get(role))
        raise Misfit(
            "a part stands at other tokens in the twin",
            f"{role} stands at tokens {spans[role]} of {clean.text!r} and at {others.get(role)} of its twin",
        )
    corrupted = tuple(role for role in spans if _text(clean, role) != _text(corrupt, role))
    inside = {p for role in corrupted for p in range(*spans[role])}
    if outside := [p for p in differ if p not in inside]:
        raise Misfit(
            "tokens change outside the parts that are exchanged",
            f"token {outside[0]} of {clean.text!r} changes with {', '.join(corrupted)}",
        )
    return {"changed": hull, **spans}, corrupted


def _text(filled: Filled, role: str) -> str:
    start, stop = filled.places[role]
    return filled.text[start:stop]


def _first_tokens(
    model: Model, text: str, answers: Iterable[str], shared: tuple[int, ...], bos: bool | None
) -> set[int]:
    """The token behind the shared ones of each answer that goes on with them.

    An answer that the tokenizer would write together with the end of the text is left out: no token says it.
    """
    found = set()
    for answer in answers:
        try:
            ids = continuation_ids(model.tokenizer, text, answer, bos)
        except PromptError:
            continue
        if len(ids) > len(shared) and ids[: len(shared)] == shared:
            found.add(ids[len(shared)])
    return found


def _with_first(first: int, tokens: Iterable[int]) -> tuple[int, ...]:
    return (first, *sorted(set(tokens) - {first}))
