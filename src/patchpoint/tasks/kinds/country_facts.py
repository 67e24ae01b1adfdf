"""Recall of facts: the capital, continent, language, currency or demonym of a country, from public tables."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import zip_longest
from math import sqrt
from pathlib import Path
from random import Random

from patchpoint.errors import FactError, UnknownName
from patchpoint.models.tokens import encode, tokens_between
from patchpoint.tasks.case import Case
from patchpoint.tasks.lexicon import Lexicon
from patchpoint.tasks.naming import task_name
from patchpoint.tasks.task import Task
from patchpoint.tasks.template import Template

from .countries import RELATIONS, CountryFact, country_facts

SUBJECT = "subject"
WORDINGS: Mapping[str, tuple[str, ...]] = {
    "capital": (
        "The capital of {subject} is the city of",
        "In {subject}, the capital city is called",
        "The capital of {subject} is",
    ),
    "country": (
        "The city of {subject} is the capital of",
        "The city {subject} is in the country of",
        "The capital {subject} is in the country of",
        "The city {subject} is the capital of",
    ),
    "continent": (
        "The country {subject} is on the continent of",
        "The country of {subject} is on the continent of",
    ),
    "language": (
        "In {subject}, the only official language is",
        "The only official language of {subject} is",
        "The official language spoken in {subject} is",
        "The official language of {subject} is",
    ),
    "currency": (
        "In {subject} the unit of currency is the",
        "The unit of currency in {subject} is the",
        "In {subject}, the currency unit is the",
    ),
    "demonym": (
        "Home country: {subject}. Nationality:",
        "Birthplace: {subject}. Nationality:",
        "Born in: {subject}. Nationality:",
    ),
}
"""Per relation, the wording of fact files first; no subject begins a text, where it has other tokens."""
NEARLY = 0.9
FEWEST = 8
"""Subjects that a wording must have at the chosen length, for their twins to be different ones."""


def facts(*, relation: str = "all") -> Task:
    """`The capital of France is the city of` -> ` Paris`: facts of one relation or of all in rotation.

    `relation`: all, capital, country (of a capital), continent, language, currency or demonym. The incorrect answer
    is the attribute of the twin's subject, another one of the relation (corruption `subject`); the role is
    `subject`, the group the relation. All prompts have the one number of tokens that most subjects come to under
    some wording. Source: the packages countryinfo and babel, what they agree on. Raises UnknownName.
    """
    if relation != "all" and relation not in RELATIONS:
        raise UnknownName("relation", relation, ("all", *RELATIONS))
    relations = RELATIONS if relation == "all" else (relation,)
    return Task(
        name=task_name("facts", facts, relation=relation),
        question="which attribute does a country, or a capital, have?",
        source="tables of the packages countryinfo and babel (Unicode CLDR)",
        corruptions=(SUBJECT,),
        cases=lambda lexicon, _corruption, draw: _cases(relations, lexicon, draw),
    )


def fact_file_rows() -> list[dict[str, str]]:
    """Every fact as a row of a file of facts: prompt, subject, attribute, relation_id."""
    return [
        {
            "prompt": templates(fact)[0].fill({SUBJECT: fact.subject}).text,
            "subject": fact.subject,
            "attribute": fact.attribute,
            "relation_id": fact.relation,
        }
        for fact in country_facts()
    ]


def write_fact_file(path: str | os.PathLike[str]) -> int:
    """Write the facts as JSON lines, UTF-8; returns how many. FactError where the file cannot be written."""
    rows = fact_file_rows()
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise FactError(
            f"cannot write {str(path)!r}: {error.strerror}; give a file in a folder that exists"
        ) from error
    return len(rows)


@cache
def templates(fact: CountryFact) -> tuple[Template, ...]:
    """The wordings of a fact's relation, with the article that its subject needs."""
    article = "the " if fact.definite else ""
    return tuple(
        Template(f"{fact.relation} {number}", text.replace("{subject}", f"{article}{{subject}}"))
        for number, text in enumerate(WORDINGS[fact.relation], start=1)
    )


Material = dict[Template, list[CountryFact]]


def _cases(relations: Iterable[str], lexicon: Lexicon, draw: Random) -> Iterator[Case]:
    """Each usable fact in each usable wording once, the relations in turn."""
    by_relation: dict[str, list[Case]] = {}
    for template, found in _of_one_length(relations, lexicon).items():
        for fact in found:
            others = [other for other in found if other.attribute != fact.attribute]
            if others:
                case = _case(template, fact, draw.choice(others))
                by_relation.setdefault(fact.relation, []).append(case)
    for cases in by_relation.values():
        draw.shuffle(cases)
    for turn in zip_longest(*by_relation.values()):
        yield from filter(None, turn)


def _case(template: Template, fact: CountryFact, twin: CountryFact) -> Case:
    return Case(
        template=template,
        clean={SUBJECT: fact.subject},
        corrupt={SUBJECT: twin.subject},
        correct=f" {fact.attribute}",
        incorrect=f" {twin.attribute}",
        group=fact.relation,
        metadata={"relation": fact.relation, "attribute": fact.attribute},
    )


def _of_one_length(relations: Iterable[str], lexicon: Lexicon) -> Material:
    """Facts by wording whose subjects have one number of tokens, and all prompts another one."""
    chosen = set(relations)
    material: Material = {}
    for fact in country_facts():
        for template in templates(fact) if fact.relation in chosen else ():
            material.setdefault(template, []).append(fact)
    lengths = {
        template: [_n_tokens(lexicon, template, fact) for fact in found]
        for template, found in material.items()
    }
    wanted = _commonest(material, lengths)
    kept: Material = {}
    for template, found in material.items():
        if lengths[template].count(wanted) < FEWEST:
            continue
        right = [fact for fact, length in zip(found, lengths[template], strict=True) if length == wanted]
        sizes = Counter(_subject_tokens(lexicon, template, fact) for fact in right)
        fitting = lexicon.fitting(
            f"subjects in {template.text!r}",
            [fact.subject for fact in found],
            [(template, SUBJECT)],
            n_tokens=sizes.most_common(1)[0][0],
        )
        # A space with a token of its own counts for the prompt but not for the subject.
        kept[template] = [fact for fact in right if fact.subject in fitting]
    return kept


def _commonest(material: Material, lengths: Mapping[Template, list[int]]) -> int:
    """The length that gives every relation many prompts, or the shortest that gives nearly as many.

    Square roots weigh a relation's tenth prompt more than its hundredth; common names have few tokens.
    """
    counts: dict[int, Counter[str]] = {}
    for template, found in material.items():
        for fact, length in zip(found, lengths[template], strict=True):
            counts.setdefault(length, Counter())[fact.relation] += 1
    worth = {n: sum(sqrt(found) for found in counts[n].values()) for n in sorted(counts)}
    return next(n for n in worth if worth[n] >= NEARLY * max(worth.values()))


def _n_tokens(lexicon: Lexicon, template: Template, fact: CountryFact) -> int:
    return len(encode(lexicon.tokenizer, template.fill({SUBJECT: fact.subject}).text, bos=False).ids)


def _subject_tokens(lexicon: Lexicon, template: Template, fact: CountryFact) -> int:
    filled = template.fill({SUBJECT: fact.subject})
    encoded = encode(lexicon.tokenizer, filled.text, bos=False)
    start, stop = tokens_between(encoded, filled.text, *filled.places[SUBJECT])
    return stop - start
