"""Analogy: what corresponds, in a second family, row of roles or pair of words, to what the first one shows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from patchpoint.errors import InvalidArgument, UnknownName
from patchpoint.tasks.case import Case
from patchpoint.tasks.lexicon import Lexicon
from patchpoint.tasks.naming import task_name
from patchpoint.tasks.task import Task
from patchpoint.tasks.template import Template

from .relations import RELATIONS
from .words import first_names

N_NAMES = 200
_PETS = """
    Fido Pebbles Max Bella Rex Coco Lucky Buddy Daisy Shadow Ginger Oscar Bear Bandit Biscuit Blaze Buster Cookie
    Duke Felix Fluffy Frosty Honey Jasper Misty Muffin Patch Pepper Prince Rocky Rover Rusty Scout Smokey Snowy
    Socks Spot Storm Sunny Tiger Toby Whiskers Ziggy
"""
PETS = tuple(_PETS.split())
_ANIMALS = "cat dog horse fish bird rabbit mouse snake turtle pig goat duck frog hamster parrot lizard"
ANIMALS = tuple(_ANIMALS.split())
_ROLES = """
    king queen hero villain prince princess doctor nurse teacher student captain cook judge lawyer singer dancer
    driver pilot soldier general writer painter farmer hunter priest monk thief guard
"""
ROLES = tuple(_ROLES.split())

FAMILY = Template(
    "family",
    "In a family: {person1} is a human. {person2} is a human. {pet1} is a {animal1}. The pet of this family is "
    "{pet1}. In another family, {person3} is a human. {second} is a {kind2}. {third} is a {kind3}. The pet of this "
    "family is",
)
ROLE = Template("roles", "{name1} is a {role1}. {name2} is a {role2}. {name3} is a {role1}. {name4} is a")
PAIR = Template("pairs", "{source} is to {target} as {word} is to")

Values = Mapping[str, str]


def _order(values: Values, other: Values) -> Values:
    """The last two sentences change places; what they say stays."""
    return {
        "second": values["third"],
        "kind2": values["kind3"],
        "third": values["second"],
        "kind3": values["kind2"],
    }


def _kinds(values: Values, other: Values) -> Values:
    return {"kind2": values["kind3"], "kind3": values["kind2"]}


def _roles(values: Values, other: Values) -> Values:
    return {"role1": values["role2"], "role2": values["role1"]}


def _word(values: Values, other: Values) -> Values:
    return {"word": other["word"]}


def _source(values: Values, other: Values) -> Values:
    return {"source": other["source"], "target": other["target"]}


@dataclass(frozen=True)
class Question:
    """Values of a template's slots, values for a twin, the two answers, and what prompts are balanced over."""

    values: Values
    other: Values
    correct: str
    incorrect: str
    group: str = ""


Questions = Callable[[Lexicon, Sequence[str], Random], Iterator[Question]]


def _families(lexicon: Lexicon, _: Sequence[str], draw: Random) -> Iterator[Question]:
    names, pets, animals = (
        lexicon.fitting(what, words, [(FAMILY, slot) for slot in slots.split()])
        for what, words, slots in (
            ("names", first_names()[:N_NAMES], "person1 person2 person3 second third"),
            ("names of pets", PETS, "pet1 second third"),
            ("animals", ("human", *ANIMALS), "animal1 kind2 kind3"),
        )
    )
    pets = tuple(pet for pet in pets if pet not in names)
    kinds = [animal for animal in animals if animal != "human"]
    while len(names) >= 4 and len(pets) >= 2 and len(kinds) >= 2 and "human" in animals:
        people, (first, pet), (animal, kind) = (
            draw.sample(words, k) for words, k in ((names, 4), (pets, 2), (kinds, 2))
        )
        values = dict(zip(("person1", "person2", "person3", "second"), people, strict=True))
        values |= {"pet1": first, "animal1": animal, "kind2": "human", "third": pet, "kind3": kind}
        yield Question(values, {}, pet, people[3])


def _rows(lexicon: Lexicon, _: Sequence[str], draw: Random) -> Iterator[Question]:
    slots = ("name2", "name3", "name4", "name1")
    names = lexicon.fitting("names", first_names()[:N_NAMES], [(ROLE, slot) for slot in slots])
    roles = lexicon.fitting("roles", ROLES, [(ROLE, "role1"), (ROLE, "role2")])
    while len(names) >= 4 and len(roles) >= 2:
        role, answer = draw.sample(roles, 2)
        people = dict(zip(slots, draw.sample(names, 4), strict=True))
        yield Question({**people, "role1": role, "role2": answer}, {}, answer, role)


def _related(lexicon: Lexicon, relations: Sequence[str], draw: Random) -> Iterator[Question]:
    sources, targets = ([pair[side] for pairs in RELATIONS.values() for pair in pairs] for side in (0, 1))
    first, second, third = (
        set(lexicon.fitting(what, words, [(PAIR, slot)], n_tokens=None))
        for what, words, slot in (
            ("first words", sources, "source"),
            ("second words", targets, "target"),
            ("third words", sources, "word"),
        )
    )
    shown = {
        name: [pair for pair in pairs if pair[0] in first and pair[1] in second]
        for name, pairs in RELATIONS.items()
    }
    asked = {name: [pair for pair in RELATIONS[name] if pair[0] in third] for name in relations}
    foreign = {
        name: [pair for other, pairs in shown.items() if other != name for pair in pairs]
        for name in relations
    }
    usable = [name for name in relations if shown[name] and foreign[name] and len(asked[name]) >= 3]
    while usable:
        for relation in usable:
            source, target = draw.choice(shown[relation])
            rest = [pair for pair in asked[relation] if pair[0] != source]
            (word, answer), (other, wrong) = draw.sample(rest, 2)
            stranger = dict(zip(("source", "target"), draw.choice(foreign[relation]), strict=True))
            values = {"source": source, "target": target, "word": word}
            yield Question(values, {"word": other, **stranger}, answer, wrong, relation)


@dataclass(frozen=True)
class Form:
    """A wording: its template, where its questions come from, its twins by corruption."""

    template: Template
    questions: Questions
    twins: Mapping[str, Callable[[Values, Values], Values]]


TEMPLATES: Mapping[str, Form] = {
    "family": Form(FAMILY, _families, {"order": _order, "swapped": _kinds}),
    "roles": Form(ROLE, _rows, {"swapped": _roles}),
    "pairs": Form(PAIR, _related, {"swapped": _word, "relation": _source}),
}


def analogy(*, template: str = "family", relation: str = "all") -> Task:
    """`In a family: John is a human. Mary is a human. Fido is a dog. The pet of this family is Fido. In another ...`

    `template` family goes on `In another family, Adam is a human. Rachel is a human. Pebbles is a cat. The pet of
    this family is` -> ` Pebbles`, incorrect ` Rachel`. Corruptions: `order`, those two change places, so that the
    answer stays by meaning and not by place; `swapped`, Rachel is the cat and Pebbles the human, so that the answers
    change places. Roles: `person1`-`3`, `pet1`, `animal1`, `second`, `kind2`, `third`, `kind3`.
    roles: `Luke is a hero. Leia is a princess. Link is a hero. Zelda is a` -> ` princess`, incorrect ` hero`;
    `swapped`: the two exchanged everywhere. Roles: `name1`-`4`, `role1`, `role2`.
    pairs: `Paris is to France as Rome is to` -> ` Italy`, incorrect the partner of another word; `swapped`: that
    other word asked; `relation`: a first pair from another relation. Roles: `source`, `target`, `word`; balanced
    over relations. `relation`: one of them, for pairs only.
    Source: the explorations of Lan et al. 2024 (arXiv 2311.04131). Raises UnknownName, InvalidArgument.
    """
    if template not in TEMPLATES:
        raise UnknownName("template of analogy", template, TEMPLATES)
    if relation != "all" and relation not in RELATIONS:
        raise UnknownName("relation", relation, ("all", *RELATIONS))
    if relation != "all" and template != "pairs":
        raise InvalidArgument(
            f"template {template} has no relations; leave relation={relation!r} out, or take pairs"
        )
    form = TEMPLATES[template]
    return Task(
        name=task_name("analogy", analogy, template=template, relation=relation),
        question="what corresponds in the second case to what the first one shows?",
        source="explorations of Lan et al. 2024, arXiv 2311.04131",
        corruptions=tuple(form.twins),
        cases=partial(_cases, form, tuple(RELATIONS) if relation == "all" else (relation,)),
    )


def _cases(
    form: Form, relations: Sequence[str], lexicon: Lexicon, corruption: str, draw: Random
) -> Iterator[Case]:
    for question in form.questions(lexicon, relations, draw):
        yield Case(
            template=form.template,
            clean=question.values,
            corrupt={**question.values, **form.twins[corruption](question.values, question.other)},
            correct=f" {question.correct}",
            incorrect=f" {question.incorrect}",
            group=question.group,
        )
