"""Indirect object identification: of two names, the one that was not said again comes next."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from random import Random

from patchpoint.errors import UnknownName
from patchpoint.tasks.case import Case
from patchpoint.tasks.lexicon import Lexicon
from patchpoint.tasks.naming import task_name
from patchpoint.tasks.task import Task
from patchpoint.tasks.template import Template

from .words import first_names

ORDERS: Mapping[str, str] = {"ABBA": "{IO} and {S1}", "BABA": "{S1} and {IO}"}
"""The names at their first places, by the order of all three and the answer."""
ROTATED: Mapping[str, tuple[str, str]] = {
    "when": ("When", "went to the {place}, {S2} gave a {object} to"),
    "while": ("While", "were at the {place}, {S2} handed a {object} to"),
    "after": ("After", "met at the {place}, {S2} gave a {object} to"),
    "once": ("Once", "got to the {place}, {S2} offered a {object} to"),
    "today": ("Today", "went to the {place}. {S2} gave a {object} to"),
}
"""Text before and behind the two names; all of one number of words, so that one call can mix them."""
SINGLE: Mapping[str, tuple[str, str]] = {
    "then": ("Then,", "went to the {place}. {S2} gave a {object} to"),
    "fun": ("Then,", "had a lot of fun at the {place}. {S2} gave a {object} to"),
    "working": ("Then,", "were working at the {place}. {S2} decided to give a {object} to"),
    "argument": ("Then,", "had a long argument, and afterwards {S2} said to"),
}
"""Longer ones, of the paper's list, each for a call of its own."""
NAMES = ("IO", "S1", "S2")
N_NAMES = 200
"""How many of the most common first names are tried."""

_PLACES = """
    store garden restaurant school hospital office house station park market library museum beach church farm hotel
    bank theater
"""
PLACES = tuple(_PLACES.split())
_OBJECTS = """
    ring drink bone computer necklace snack book ball letter gift flower key ticket coat hat map cake pen bag cup
    card lamp toy
"""
OBJECTS = tuple(_OBJECTS.split())

Values = dict[str, str]
Corruption = Callable[[Values, Sequence[str]], Values]


def _abc(values: Values, others: Sequence[str]) -> Values:
    return values | dict(zip(NAMES, others, strict=True))


def _swapped(values: Values, _: Sequence[str]) -> Values:
    return values | {"S2": values["IO"]}


CORRUPTIONS: Mapping[str, Corruption] = {"abc": _abc, "swapped": _swapped}


def ioi(*, template: str = "all", order: str = "both") -> Task:
    """`When Mary and John went to the store, John gave a drink to` -> ` Mary`.

    Roles: `IO` (the answer), `S1` and `S2` (the name said twice, the incorrect answer), `place`, `object`.
    `template`: all (those of one length in rotation), when, while, after, once, today, or the longer then, fun,
    working, argument. `order`: ABBA (the answer's name first), BABA, or both, equally often; it is the group.
    Corruptions: `abc`, three other names, all different, so that nobody is said twice; `swapped`, where the
    answer's name is the one said twice and the answer is the other. Source: Wang et al. 2022, "Interpretability
    in the Wild" (arXiv 2211.00593), section 2 and appendix. Raises UnknownName.
    """
    texts = {**ROTATED, **SINGLE}
    if template != "all" and template not in texts:
        raise UnknownName("template of ioi", template, ("all", *texts))
    if order != "both" and order not in ORDERS:
        raise UnknownName("order of ioi", order, ("both", *ORDERS))
    chosen = tuple(ROTATED) if template == "all" else (template,)
    orders = tuple(ORDERS) if order == "both" else (order,)
    templates = tuple(
        (one, Template(f"{name} {one}", f"{texts[name][0]} {ORDERS[one]} {texts[name][1]}"))
        for name in chosen
        for one in orders
    )
    return Task(
        name=task_name("ioi", ioi, template=template, order=order),
        question="which of two names gets something, when the other is the one who gives it?",
        source="Wang et al. 2022, arXiv 2211.00593",
        corruptions=tuple(CORRUPTIONS),
        cases=partial(_cases, templates),
    )


def _cases(
    templates: Sequence[tuple[str, Template]], lexicon: Lexicon, corruption: str, draw: Random
) -> Iterator[Case]:
    names, places, objects = (
        lexicon.fitting(
            what, words, [(one, slot) for _, one in templates for slot in slots if slot in one.slots]
        )
        for what, words, slots in (
            ("names", first_names()[:N_NAMES], NAMES),
            ("places", PLACES, ("place",)),
            ("objects", OBJECTS, ("object",)),
        )
    )
    while len(names) >= 5 and places and objects:
        for order, template in templates:
            recipient, giver, *others = draw.sample(names, 5)
            values = {
                "IO": recipient,
                "S1": giver,
                "S2": giver,
                "place": draw.choice(places),
                "object": draw.choice(objects),
            }
            yield Case(
                template=template,
                clean=values,
                corrupt=CORRUPTIONS[corruption](values, others),
                correct=f" {recipient}",
                incorrect=f" {giver}",
                group=order,
                metadata={"order": order},
            )
