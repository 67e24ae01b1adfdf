"""Subject-verb agreement: the verb has the number of its subject, whatever noun stands between."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from random import Random

from patchpoint.errors import UnknownName
from patchpoint.tasks.case import Case
from patchpoint.tasks.lexicon import Lexicon
from patchpoint.tasks.naming import task_name
from patchpoint.tasks.task import Task
from patchpoint.tasks.template import Template

_THINGS = """
    key book letter picture ticket bottle lamp chair coat shoe hat pen cup toy map bag bird boat bell camera clock coin
    flower stone table truck wheel tree plant desk
"""
_PLACES = """
    door window table cabinet tree car house wall river bridge garden bed desk boat truck tower fence road lake field
    station school church office
"""
_PEOPLE = """
    author guard teacher doctor farmer student singer writer driver actor artist lawyer player friend neighbor sister
    brother king soldier painter manager pilot officer worker dancer poet
"""
THINGS, PLACES, PEOPLE = tuple(_THINGS.split()), tuple(_PLACES.split()), tuple(_PEOPLE.split())
"""Nouns whose plural is theirs with an s."""

TEMPLATES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "clause": (
        (
            "I know that the {subject} near the {attractor}",
            "I think that the {subject} behind the {attractor}",
            "I know that the {subject} beside the {attractor}",
            "I think that the {subject} by the {attractor}",
        ),
        THINGS,
        PLACES,
    ),
    "bare": (("The {subject} near the {attractor}", "The {subject} behind the {attractor}"), THINGS, PLACES),
    "relative": (
        (
            "I know that the {subject} that the {attractor} liked",
            "I think that the {subject} that the {attractor} saw",
        ),
        PEOPLE,
        PEOPLE,
    ),
    "bare-relative": (
        ("The {subject} that the {attractor} liked", "The {subject} that the {attractor} saw"),
        PEOPLE,
        PEOPLE,
    ),
}
"""Texts of one length, the subjects and the attractors."""
VERBS: Mapping[str, str] = {
    "is": "are",
    "was": "were",
    "has": "have",
    "seems": "seem",
    "looks": "look",
    "needs": "need",
}
NUMBERS = ("singular", "plural")
CORRUPTIONS: Mapping[str, str] = {"number": "subject", "attractor": "attractor"}
"""The slot whose noun changes its number in the twin."""


def subject_verb_agreement(*, template: str = "clause", verb: str = "is") -> Task:
    """`I know that the keys near the cabinet` -> ` are`, not ` is`.

    Roles: `subject`, `attractor` (the noun between it and the verb). `template`: clause; bare, the published form
    without its first words (`The keys near the cabinet`); relative and bare-relative, with people
    (`... the author that the guards liked`). `verb`: is, was, has, seems, looks or needs; the others in the same
    number are right as well, those in the other number wrong as well. The group is both nouns' numbers.
    Corruptions: `number`, the subject in the other number, where the answer is the other form; `attractor`, the
    attractor in the other number, where the answer stays. Source: Marvin & Linzen 2018 (arXiv 1808.09031);
    Finlayson et al. 2021, "Causal Analysis of Syntactic Agreement Mechanisms" (arXiv 2106.06087). Raises UnknownName.
    """
    if template not in TEMPLATES:
        raise UnknownName("template of subject-verb-agreement", template, TEMPLATES)
    if verb not in VERBS:
        raise UnknownName("verb of subject-verb-agreement", verb, VERBS)
    return Task(
        name=task_name("subject-verb-agreement", subject_verb_agreement, template=template, verb=verb),
        question="does the verb stand in the singular or the plural, as its subject does?",
        source="Marvin & Linzen 2018, arXiv 1808.09031; Finlayson et al. 2021, arXiv 2106.06087",
        corruptions=tuple(CORRUPTIONS),
        cases=partial(_cases, template, verb),
    )


def _cases(name: str, verb: str, lexicon: Lexicon, corruption: str, draw: Random) -> Iterator[Case]:
    texts, *lists = TEMPLATES[name]
    templates = [Template(text, text) for text in texts]
    subjects, attractors = (
        _both_numbers(lexicon, words, [(template, slot) for template in templates], slot)
        for slot, words in zip(("subject", "attractor"), lists, strict=True)
    )
    while len({*subjects, *attractors}) > 1 and subjects and attractors:
        for template, numbers in product(templates, product(NUMBERS, NUMBERS)):
            subject, attractor = draw.choice(subjects), draw.choice(attractors)
            if subject != attractor:
                yield _case(template, (subject, attractor), numbers, verb, corruption)


def _both_numbers(
    lexicon: Lexicon, words: Sequence[str], places: Sequence[tuple[Template, str]], what: str
) -> tuple[str, ...]:
    """The nouns that fit in the singular and in the plural."""
    singulars = lexicon.fitting(f"{what}s", words, places)
    plurals = set(
        lexicon.fitting(f"{what}s in the plural", [_noun(word, "plural") for word in words], places)
    )
    return tuple(word for word in singulars if _noun(word, "plural") in plurals)


def _case(
    template: Template, nouns: tuple[str, str], numbers: tuple[str, str], verb: str, corruption: str
) -> Case:
    by_slot = dict(zip(("subject", "attractor"), zip(nouns, numbers, strict=True), strict=True))
    values = {slot: _noun(noun, number) for slot, (noun, number) in by_slot.items()}
    changed = CORRUPTIONS[corruption]
    noun, number = by_slot[changed]
    right, wrong = (numbers[0], _other(numbers[0]))
    return Case(
        template=template,
        clean=values,
        corrupt=values | {changed: _noun(noun, _other(number))},
        correct=_form(verb, right),
        incorrect=_form(verb, wrong),
        also_correct=tuple(_form(other, right) for other in VERBS if other != verb),
        also_incorrect=tuple(_form(other, wrong) for other in VERBS if other != verb),
        group=f"{numbers[0]} {numbers[1]}",
        metadata={"subject_number": numbers[0], "attractor_number": numbers[1]},
    )


def _noun(word: str, number: str) -> str:
    return word if number == "singular" else f"{word}s"


def _form(verb: str, number: str) -> str:
    return f" {verb}" if number == "singular" else f" {VERBS[verb]}"


def _other(number: str) -> str:
    return NUMBERS[1 - NUMBERS.index(number)]
