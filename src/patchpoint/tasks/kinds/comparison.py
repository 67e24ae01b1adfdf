"""Comparison: the opposite of what is said of somebody, and who of two is the taller one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from random import Random

from patchpoint.errors import UnknownName
from patchpoint.tasks.case import Case
from patchpoint.tasks.lexicon import Lexicon
from patchpoint.tasks.naming import task_name
from patchpoint.tasks.task import Task
from patchpoint.tasks.template import Template

from .examples import example_values, places_of, with_examples
from .words import first_names

N_NAMES = 200

_OPPOSITES = """
    tall-short big-small fast-slow old-young rich-poor strong-weak hot-cold happy-sad loud-quiet thin-fat kind-cruel
    heavy-light clean-dirty good-bad right-wrong early-late alive-dead wise-foolish hard-soft warm-cool wet-dry
    awake-asleep full-empty first-last
"""
_COMPARATIVES = """
    taller-shorter bigger-smaller faster-slower older-younger richer-poorer stronger-weaker happier-sadder
    heavier-lighter louder-quieter warmer-colder
"""
Pair = tuple[str, str]


def _pairs(text: str) -> tuple[Pair, ...]:
    both = [pair.split("-") for pair in text.split()]
    return tuple((one, other) for one, other in (*both, *(pair[::-1] for pair in both)))


OPPOSITES = _pairs(_OPPOSITES)
"""Words of people and things with their opposites, both ways round."""
COMPARATIVES = _pairs(_COMPARATIVES)

Values = dict[str, str]


@dataclass(frozen=True)
class Question:
    """Values of a wording's slots and of its twin's, and the two answers; their order in the text is the group."""

    values: Values
    twin: Values
    answer: str
    incorrect: str
    group: str = ""


def _opposite(names: Sequence[str], pair: Pair, turn: int) -> Question:
    word, opposite = pair
    values = {"name": names[0], "other": names[1], "word": word}
    return Question(values, {"word": opposite}, opposite, word)


def _asked(names: Sequence[str], pair: Pair, turn: int) -> Question:
    name, other = names
    word, opposite = pair
    if turn % 2 == 0:
        asked, twin, answers, group = word, opposite, (name, other), "the first name"
    else:
        asked, twin, answers, group = opposite, word, (other, name), "the second name"
    values = {"name": name, "other": other, "word": word, "asked": asked}
    return Question(values, {"asked": twin}, *answers, group)


def _converse(names: Sequence[str], pair: Pair, turn: int) -> Question:
    name, other = names
    word, opposite = pair
    values = {"name": name, "other": other, "word": word, "opposite": opposite}
    return Question(values, {"name": other, "other": name}, name, other)


@dataclass(frozen=True)
class Form:
    """A wording: the question, what follows it with its answer, its pairs of words, and how it is asked.

    `words` and `names`: where words of the pairs stand, and names, the answer of an example among them.
    """

    question: str
    solution: str
    pairs: tuple[Pair, ...]
    ask: Callable[[Sequence[str], Pair, int], Question]
    words: str
    names: str


TEMPLATES: Mapping[str, Form] = {
    "but": Form(
        "{name} is {word}, but {other} is",
        " {answer}. ",
        OPPOSITES,
        _opposite,
        words="word answer",
        names="name other",
    ),
    "plain": Form(
        "{name} is {word}. {other} is",
        " {answer}. ",
        OPPOSITES,
        _opposite,
        words="word answer",
        names="name other",
    ),
    "opposite": Form(
        "The opposite of {word} is",
        " {answer}. ",
        OPPOSITES,
        _opposite,
        words="word answer",
        names="",
    ),
    "which": Form(
        "{name} is {word} than {other}. The {asked} one is",
        " {answer}. ",
        COMPARATIVES,
        _asked,
        words="word asked",
        names="name other answer",
    ),
    "converse": Form(
        "{name} is {word} than {other}, so {other} is {opposite} than",
        " {answer}. ",
        COMPARATIVES,
        _converse,
        words="word opposite",
        names="name other answer",
    ),
}


def comparison(*, template: str = "but", examples: int = 1) -> Task:
    """`Mary is rich, but Tom is poor. John is tall, but Ann is` -> ` short`.

    Roles: `name`, `other`, `word`, and in the examples in front `name1`, `other1`, `word1`, `answer1` and so on.
    The incorrect answer is the other of the two that are compared. `template`: but; plain, the same in separate
    sentences (with `examples=0`: `John is tall. Mary is`); opposite (`The opposite of tall is`); which (`John is
    taller than Mary. The shorter one is` -> ` Mary`, balanced over which name is right); converse (`John is taller
    than Mary, so Mary is shorter than` -> ` John`). `examples`: solved ones in front, with other names and words.
    Corruption: `swapped`, one side put for the other so that the answers change
    places: the opposite for the word (but, plain, opposite), the opposite asked (which), each name for the other
    (converse). Source: the explorations of Lan et al. 2024 (arXiv 2311.04131). Raises UnknownName, InvalidArgument.
    """
    if template not in TEMPLATES:
        raise UnknownName("template of comparison", template, TEMPLATES)
    form = TEMPLATES[template]
    whole = with_examples(template, form.question, form.solution, examples)
    return Task(
        name=task_name("comparison", comparison, template=template, examples=examples),
        question="what is the other one, when one of two is this?",
        source="explorations of Lan et al. 2024, arXiv 2311.04131",
        corruptions=("swapped",),
        cases=partial(_cases, form, whole, examples),
    )


def _cases(
    form: Form, whole: Template, n_examples: int, lexicon: Lexicon, _: str, draw: Random
) -> Iterator[Case]:
    n = n_examples + 1
    named, told = (
        [place for slot in slots.split() for place in places_of(whole, slot)]
        for slots in (form.names, form.words)
    )
    words = set(lexicon.fitting("words", (word for pair in form.pairs for word in pair), told))
    pairs = [pair for pair in form.pairs if words.issuperset(pair)]
    names = first_names()[:N_NAMES]
    if named:
        names = lexicon.fitting("names", names, named)
    for number in count():
        if len(names) < 2 * n or len(pairs) < 2 * n:
            return
        people, chosen = draw.sample(names, 2 * n), _different(pairs, n, draw)
        turns = (number, *(draw.randrange(2) for _ in range(n_examples)))
        questions = [
            form.ask(people[2 * i : 2 * i + 2], pair, turn)
            for i, (pair, turn) in enumerate(zip(chosen, turns, strict=True))
        ]
        asked = questions[0]
        clean = {slot: value for slot, value in asked.values.items() if slot in whole.slots}
        for i, solved in enumerate(questions[1:], 1):
            clean |= example_values({**solved.values, "answer": solved.answer}, i)
        yield Case(
            template=whole,
            clean=clean,
            corrupt=clean | asked.twin,
            correct=f" {asked.answer}",
            incorrect=f" {asked.incorrect}",
            group=asked.group,
        )


def _different(pairs: Sequence[Pair], n: int, draw: Random) -> list[Pair]:
    """Pairs of `n` different words, no pair together with its own reverse."""
    chosen: dict[frozenset[str], Pair] = {}
    while len(chosen) < n:
        pair = draw.choice(pairs)
        chosen.setdefault(frozenset(pair), pair)
    return list(chosen.values())
