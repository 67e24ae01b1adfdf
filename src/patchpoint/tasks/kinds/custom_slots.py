"""Templates of your own: values for their slots, from the rows of a file or from lists of words."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from math import prod
from random import Random
from typing import Protocol

from patchpoint.errors import InvalidArgument, PromptError, UnknownName
from patchpoint.models.tokens import continuation
from patchpoint.tasks.case import Case
from patchpoint.tasks.lexicon import Lexicon
from patchpoint.tasks.template import Template

from .custom_files import ValueRow, read_values

COMBINATIONS, TRIES = 100_000, 64
Values = Mapping[str, str]
Words = Mapping[str, Sequence[str]]


class Source(Protocol):
    """Where values come from."""

    def words(self, slot: str) -> Iterable[str]:
        """All words of a slot."""
        ...

    def draws(self, fitting: Words, draw: Random) -> Iterator[tuple[ValueRow, Iterator[Values]]]:
        """Rows of words that fit, each once, in random order, and for each what its twin may be made of."""
        ...


@dataclass(frozen=True)
class Plan:
    """A template with its answers, and the slots that its twins change. Built by `of`, which checks them."""

    template: Template
    correct: Template
    incorrect: Template | None
    vary: tuple[str, ...]

    @classmethod
    def of(cls, template: str, correct: str, incorrect: str | None, vary: Sequence[str] | None) -> "Plan":
        """InvalidArgument for texts that are no templates, UnknownName for a slot that is not there."""
        text = Template("template", template.rstrip())
        if not text.slots:
            raise InvalidArgument(f"template {template!r} has no slot; write one as {{country}}")
        chosen = text.slots if vary is None else (vary,) if isinstance(vary, str) else tuple(vary)
        if not chosen:
            raise InvalidArgument(
                f"vary names no slot; give some of {', '.join(text.slots)}, or leave it out"
            )
        for slot in chosen:
            if slot not in text.slots:
                raise UnknownName("slot to vary", slot, text.slots)
        wrong = None if incorrect is None else Template("incorrect", incorrect)
        return cls(text, Template("correct", correct), wrong, chosen)

    @property
    def answers(self) -> tuple[Template, ...]:
        """The templates of the answers."""
        return (self.correct,) if self.incorrect is None else (self.correct, self.incorrect)

    @property
    def columns(self) -> tuple[str, ...]:
        """Every slot of the text and of the answers, once."""
        return tuple(
            dict.fromkeys(slot for template in (self.template, *self.answers) for slot in template.slots)
        )

    def cases(self, source: Source, lexicon: Lexicon, draw: Random) -> Iterator[Case]:
        """A case for each row that has a twin with other words and another answer."""
        fitting = {
            slot: lexicon.fitting(slot, source.words(slot), [(self.template, slot)], n_tokens=None)
            for slot in self.template.slots
        }
        for row, others in source.draws(fitting, draw):
            found = next(filter(None, (self._case(row, other) for other in others)), None)
            if found is not None:
                yield found

    def _case(self, row: ValueRow, other: Values) -> Case | None:
        kept = {slot: row.values[slot] for slot in self.template.slots if slot not in self.vary}
        clean, corrupt = (
            {slot: values[slot] for slot in self.template.slots} for values in (row.values, {**other, **kept})
        )
        text = self.template.fill(clean).text
        right = self.answer(self.correct, text, row.values)
        wrong = (
            self.answer(self.correct, text, {**other, **kept})
            if self.incorrect is None
            else self.answer(self.incorrect, text, row.values)
        )
        if clean == corrupt or right == wrong:
            return None
        return Case(
            template=self.template,
            clean=clean,
            corrupt=corrupt,
            correct=right,
            incorrect=wrong,
            group=row.group,
            metadata=row.values,
        )

    @staticmethod
    def answer(template: Template, text: str, values: Values) -> str:
        """An answer as it follows the text."""
        return continuation(text, template.fill(values).text)


@dataclass(frozen=True)
class _Rows:
    rows: tuple[ValueRow, ...]

    def words(self, slot: str) -> Iterable[str]:
        return (row.values[slot] for row in self.rows)

    def draws(self, fitting: Words, draw: Random) -> Iterator[tuple[ValueRow, Iterator[Values]]]:
        known = {slot: set(words) for slot, words in fitting.items()}
        kept = [row for row in self.rows if all(row.values[slot] in words for slot, words in known.items())]
        by_group: dict[str, list[ValueRow]] = {}
        for row in draw.sample(kept, len(kept)):
            by_group.setdefault(row.group, []).append(row)
        for turn in zip_longest(*by_group.values()):
            for row in filter(None, turn):
                tries = (draw.choice(kept) for _ in range(TRIES))
                yield row, (other.values for other in chain(tries, kept))


@dataclass(frozen=True)
class _Combinations:
    slots: Words

    def words(self, slot: str) -> Iterable[str]:
        return self.slots[slot]

    def draws(self, fitting: Words, draw: Random) -> Iterator[tuple[ValueRow, Iterator[Values]]]:
        total = prod(map(len, fitting.values()))
        few = total <= COMBINATIONS
        numbers = (
            draw.sample(range(total), total) if few else (draw.randrange(total) for _ in range(COMBINATIONS))
        )
        for number in numbers:
            row = {}
            for slot, words in fitting.items():
                number, place = divmod(number, len(words))
                row[slot] = words[place]
            yield ValueRow(row), (_others(row, fitting, draw) for _ in range(TRIES))


def _others(row: Values, fitting: Words, draw: Random) -> Values:
    """Another word in every slot that has one."""
    return {
        slot: draw.choice([word for word in words if word != row[slot]] or words)
        for slot, words in fitting.items()
    }


def from_file(file: str | os.PathLike[str], plan: Plan) -> Source:
    """The rows of a file whose columns are the plan's. PromptError for files and rows that cannot be used."""
    rows = read_values(file, plan.columns)
    answers = {plan.correct.fill(row.values).text for row in rows}
    if plan.incorrect is None and len(answers) < 2:
        raise PromptError(
            f"{str(file)!r}: every row has the same correct answer {answers.pop()!r}, so no other row's can be the "
            "incorrect one; give incorrect="
        )
    return _Rows(rows)


def from_words(slots: Mapping[str, Sequence[str]], plan: Plan) -> Source:
    """Words for every slot. Raises InvalidArgument, and UnknownName for slots that the template has not."""
    known = plan.template.slots
    for slot in chain(plan.columns, slots):
        if slot not in known:
            raise UnknownName("slot of the template", slot, known)
    for slot in known:
        words = slots.get(slot, ())
        if isinstance(words, str) or not words or not all(isinstance(w, str) and w.strip() for w in words):
            raise InvalidArgument(
                f"slots[{slot!r}] must be a list of words, got {words!r}; give at least one"
            )
    if all(len(set(slots[slot])) < 2 for slot in plan.vary):
        raise InvalidArgument(f"{', '.join(plan.vary)} must have two words to vary; give slots more of them")
    if plan.incorrect is None and not set(plan.correct.slots) & set(plan.vary):
        raise InvalidArgument(
            f"correct={plan.correct.text!r} has no slot that varies ({', '.join(plan.vary)}), so twins have the same "
            "answer; give incorrect="
        )
    return _Combinations({slot: tuple(dict.fromkeys(slots[slot])) for slot in known})
