"""From cases to candidates: aligned with the tokenizer, different from each other, all of one length."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from random import Random
from typing import TYPE_CHECKING

from patchpoint.engine import Model
from patchpoint.models.tokens import encode

from .alignment import Misfit, Pair, align
from .case import Case
from .lexicon import Lexicon
from .resampling import RESAMPLED, resampled

if TYPE_CHECKING:
    from .task import Task

AHEAD = 96
"""Candidates looked at to see which number of tokens is the most common."""
PATIENCE = 400
"""Cases in a row that bring nothing new, after which a task is taken to have no more."""


@dataclass(frozen=True)
class Candidate:
    """One case of a task, in tokens."""

    case: Case
    pair: Pair


@dataclass
class Dropped:
    """Reasons for which cases never became candidates: how many, and one message for each."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def note(self, reason: str, example: str) -> None:
        """One more for this reason."""
        self.counts[reason] += 1
        self.examples.setdefault(reason, example)


Row = tuple[Candidate, ...]
"""One candidate of each of several tasks, made from the same draw."""


def candidates(
    model: Model,
    tasks: Sequence["Task"],
    corruptions: Sequence[str],
    lexicons: Sequence[Lexicon],
    seed: int,
    bos: bool | None,
    dropped: Sequence[Dropped],
) -> Iterator[Row]:
    """Rows of candidates, one of each task; those of one task all have the same number of tokens."""
    bos = encode(model.tokenizer, "a", bos).bos
    streams = [
        cases_of(task, corruption, lexicon, seed)
        for task, corruption, lexicon in zip(tasks, corruptions, lexicons, strict=True)
    ]
    aligned = _aligned(model, streams, bos, dropped)
    first = list(islice(aligned, AHEAD))
    lengths = _most_common(first)
    for row in chain(first, aligned):
        mine = _lengths(row)
        if mine == lengths:
            yield row
            continue
        for candidate, n, wanted, one in zip(row, mine, lengths, dropped, strict=True):
            if n != wanted:
                one.note(f"not {wanted} tokens long as most are", f"{n} tokens: {candidate.pair.texts[0]!r}")


def cases_of(task: "Task", corruption: str, lexicon: Lexicon, seed: int) -> Iterator[Case]:
    """A task's cases under one of its corruptions or `resampled`."""
    if corruption != RESAMPLED:
        return task.cases(lexicon, corruption, Random(seed))
    own = task.corruptions[0] if task.corruptions else RESAMPLED
    others = task.cases(Lexicon(lexicon.tokenizer), own, Random(f"{seed} others"))
    return resampled(task.cases(lexicon, own, Random(seed)), others, Random(f"{seed} twins"))


def _aligned(
    model: Model, streams: Sequence[Iterable[Case]], bos: bool | None, dropped: Sequence[Dropped]
) -> Iterator[Row]:
    seen: set[tuple[str, ...]] = set()
    idle = 0
    for cases in _in_step(streams):
        row = tuple(
            found
            for case, one in zip(cases, dropped, strict=True)
            if (found := _candidate(model, case, bos, one)) is not None
        )
        texts = tuple(candidate.pair.texts[0] for candidate in row)
        if len(row) == len(cases) and texts not in seen:
            idle = 0
            seen.add(texts)
            yield row
            continue
        idle += 1
        if idle > PATIENCE:
            return
        if texts in seen:
            dropped[0].note("the same as an earlier one", repr(texts[0]))


def _in_step(streams: Sequence[Iterable[Case]]) -> Iterator[tuple[Case, ...]]:
    """One case of each stream, of the same number: what one of them leaves out is left out of all."""
    numbered = [
        ((i if case.number is None else case.number, case) for i, case in enumerate(cases))
        for cases in streams
    ]
    ahead = [next(cases, None) for cases in numbered]
    while all(ahead):
        heads = [head for head in ahead if head is not None]
        last = max(number for number, _ in heads)
        if all(number == last for number, _ in heads):
            yield tuple(case for _, case in heads)
            last += 1
        ahead = [
            head if head[0] >= last else next(cases, None)
            for head, cases in zip(heads, numbered, strict=True)
        ]


def _candidate(model: Model, case: Case, bos: bool | None, dropped: Dropped) -> Candidate | None:
    try:
        pair = align(
            model,
            case.template.fill(case.clean),
            case.template.fill(case.corrupt),
            case.correct,
            case.incorrect,
            also_correct=case.also_correct,
            also_incorrect=case.also_incorrect,
            bos=bos,
        )
    except Misfit as misfit:
        dropped.note(misfit.reason, str(misfit))
        return None
    return Candidate(case, pair)


def _most_common(rows: Sequence[Row]) -> tuple[int, ...]:
    return Counter(map(_lengths, rows)).most_common(1)[0][0] if rows else ()


def _lengths(row: Row) -> tuple[int, ...]:
    return tuple(len(candidate.pair.clean) for candidate in row)
