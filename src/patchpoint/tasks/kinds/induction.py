"""Induction: words without meaning, some of them again, and what followed at their first place."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from random import Random

from patchpoint.errors import InvalidArgument, UnknownName
from patchpoint.tasks.case import Case
from patchpoint.tasks.lexicon import Lexicon
from patchpoint.tasks.naming import task_name
from patchpoint.tasks.task import Task
from patchpoint.tasks.template import Template

from .words import NOUNS

FEWEST, MOST = 4, 40
WORDS = tuple(noun.lower() for noun in NOUNS)

Values = dict[str, str]


def _repeated(words: int) -> int:
    return words // 2


def _pair(words: int) -> int:
    return 1


TEMPLATES: Mapping[str, Callable[[int], int]] = {"repeated": _repeated, "pair": _pair}
"""How many words are said again, of how many."""


def _broken(prefix: str, copied: str, other: str, clean: Values, new: str) -> Values:
    return {prefix: new}


def _exchanged(prefix: str, copied: str, other: str, clean: Values, new: str) -> Values:
    return {copied: clean[other], other: clean[copied]}


CORRUPTIONS: Mapping[str, Callable[[str, str, str, Values, str], Values]] = {
    "broken": _broken,
    "exchanged": _exchanged,
}
"""New values, given three slots, the clean values and a word that is not among them."""


def induction(*, template: str = "repeated", words: int = 10) -> Task:
    """`apple river coin lamp horse star apple river coin` -> ` lamp`.

    Random words, and some of them once more; the answer is the word that followed the last one at its first
    place, the incorrect answer is another word of the list. Roles: `word1`, `word2`, ... the list and `again1`, ...
    what is said again. `template`: repeated, the first half of the list; pair, a single word from its middle.
    `words`: how many are in the list, 4 to 40. Corruptions: `broken`, a new word at the first place of the last
    word, so that nothing tells what to copy; `exchanged`, the answer and the incorrect one change places in the
    list, and the answer is the other. Source: Olsson et al. 2022, "In-context Learning and Induction Heads"
    (arXiv 2209.11895). Raises UnknownName, InvalidArgument.
    """
    if template not in TEMPLATES:
        raise UnknownName("template of induction", template, TEMPLATES)
    if isinstance(words, bool) or not isinstance(words, int) or not FEWEST <= words <= MOST:
        raise InvalidArgument(f"words must be a whole number from {FEWEST} to {MOST}, got {words!r}")
    return Task(
        name=task_name("induction", induction, template=template, words=words),
        question="which word followed the last one where it stood before?",
        source="Olsson et al. 2022, arXiv 2209.11895",
        corruptions=tuple(CORRUPTIONS),
        cases=partial(_cases, template, words),
    )


def _cases(name: str, n_words: int, lexicon: Lexicon, corruption: str, draw: Random) -> Iterator[Case]:
    n_again = TEMPLATES[name](n_words)
    last = n_words // 2
    listed = [f"word{number}" for number in range(1, n_words + 1)]
    again = [f"again{number}" for number in range(1, n_again + 1)]
    source: Sequence[str] = listed[last - n_again : last]
    prefix, copied = listed[last - 1], listed[last]
    template = Template(name, " ".join(f"{{{slot}}}" for slot in (*listed, *again)))
    # The first place is left to the end: a text's first word is often written without a space before it.
    places = [(template, slot) for slot in (*listed[1:], *again, listed[0])]
    known = lexicon.fitting("words", WORDS, places)
    while len(known) > n_words:
        *chosen, new = draw.sample(known, n_words + 1)
        clean = dict(zip(listed, chosen, strict=True))
        clean |= {slot: clean[first] for slot, first in zip(again, source, strict=True)}
        other = draw.choice([slot for slot in listed if slot not in (*source, copied)])
        yield Case(
            template=template,
            clean=clean,
            corrupt=clean | CORRUPTIONS[corruption](prefix, copied, other, clean, new),
            correct=f" {clean[copied]}",
            incorrect=f" {clean[other]}",
        )
