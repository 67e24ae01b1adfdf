"""The stream of cases of a sequence task: sentences drawn whatever the members are, told in the members that fit."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from random import Random

from patchpoint.tasks.case import Case
from patchpoint.tasks.lexicon import Lexicon
from patchpoint.tasks.template import Template

from .orders import Progression, Window
from .sequence_fit import Fit, fit
from .sequence_texts import FILLERS, Form
from .sequence_twins import TWINS

Words = Mapping[Template, tuple[str, ...]]
"""Template -> the words that may stand in its slots other than those of members."""
Sentence = tuple[Template, Window, Mapping[str, str]]
"""A template, the values of its members, and the words in its other slots."""


@dataclass(frozen=True)
class SequenceCases:
    """Cases of a progression in forms that take turns, every window once in each turn.

    Neither the sentences nor their numbers (`sentence` in the metadata) depend on the members: windows that a
    tokenizer writes unlike the others are drawn and left out. Forms without other words end after one turn.
    """

    progression: Progression
    forms: tuple[Form, ...]

    def __call__(self, lexicon: Lexicon, corruption: str, draw: Random) -> Iterator[Case]:
        """Cases under the corruption of this name, a key of TWINS; none where the tokenizer can write no window."""
        words = self._words(lexicon)
        fitting = fit(lexicon, self.progression, tuple(words)) if words else None
        if fitting is None:
            return
        # Twins have a randomness of their own: how often they are redrawn depends on the members.
        for_twins = Random(draw.getrandbits(64))
        skipped = 0
        for number, sentence in enumerate(_sentences(words, self.progression.windows, draw)):
            case = self._case(number, sentence, fitting, corruption, for_twins)
            skipped = 0 if case else skipped + 1
            if case:
                yield case
            elif skipped == len(self.progression.windows):
                return

    def _words(self, lexicon: Lexicon) -> Words:
        """Templates whose slots can be filled, with their words."""
        words: dict[Template, tuple[str, ...]] = {}
        for form in self.forms:
            template = form.template(self.progression.n_shown, self.progression.vocabulary.preposition)
            fitting: tuple[str, ...] = ()
            if form.fillers is not None:
                places = [(template, slot) for slot in other_slots(template)]
                given = FILLERS[form.fillers]()
                fitting = lexicon.fitting(f"{form.fillers} in {form.name}", given, places)
            if len(fitting) >= len(other_slots(template)):
                words[template] = fitting
        return words

    def _case(
        self, number: int, sentence: Sentence, fitting: Fit, corruption: str, draw: Random
    ) -> Case | None:
        template, window, around = sentence
        if window not in fitting.windows:
            return None
        twin = TWINS[corruption](self.progression, fitting.pools, window, draw)
        if twin is None:
            return None
        *shown, answer = self.progression.words(window)
        broken = self.progression.words(twin)
        start = " ".join(shown[: self.progression.order.reads])
        return Case(
            template=template,
            clean={**around, **_members(shown)},
            corrupt={**around, **_members(broken)},
            correct=f" {answer}",
            incorrect=f" {shown[-1]}",
            group=start,
            number=number,
            metadata={
                "sentence": number,
                "start": start,
                "order": self.progression.order.name,
                "members": " ".join(shown),
            },
        )


def other_slots(template: Template) -> tuple[str, ...]:
    """The slots of a template that hold no member."""
    return tuple(slot for slot in template.slots if not slot.startswith("S"))


def _members(words: Sequence[str]) -> dict[str, str]:
    return {f"S{i}": word for i, word in enumerate(words, start=1)}


def _sentences(words: Words, windows: Sequence[Window], draw: Random) -> Iterator[Sentence]:
    """Turns of all windows, a template each; without other words one turn, in an order that is drawn."""
    templates = tuple(words)
    if not any(words.values()):
        for template in templates:
            for window in draw.sample(windows, len(windows)):
                yield template, window, {}
        return
    for turn in count():
        template = templates[turn % len(templates)]
        slots = other_slots(template)
        for window in windows:
            yield template, window, dict(zip(slots, draw.sample(words[template], len(slots)), strict=True))
