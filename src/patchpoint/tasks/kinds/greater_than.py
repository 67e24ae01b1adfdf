"""Greater-than: something that began in one year ends in a later year of the century."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from random import Random

from patchpoint.errors import UnknownName
from patchpoint.tasks.case import Case
from patchpoint.tasks.lexicon import Lexicon
from patchpoint.tasks.naming import task_name
from patchpoint.tasks.task import Task
from patchpoint.tasks.template import Template

TEXTS: Mapping[str, str] = {
    "lasted": "The {{noun}} lasted from the year {0}{{year}} to the year {0}",
    "started": "The {{noun}} started in the year {0}{{year}} and ended in the year {0}",
}
"""Texts of templates, once `{0}` is a century or its slot."""
CENTURIES = tuple(f"{century}" for century in range(11, 18))
YEARS = tuple(f"{year:02d}" for year in range(100))
FIRST_YEAR = "01"
"""The twin's year: every later year of the century comes after it."""

_NOUNS = """
    war siege conflict campaign reign trial project dynasty rebellion plague crisis famine battle alliance marriage
    expedition dispute revolt mission journey voyage reform truce drought strike tour treaty study program raid
    invasion occupation uprising struggle partnership feud hunt debate
"""
NOUNS = tuple(_NOUNS.split())


def greater_than(*, template: str = "lasted", century: str | int = "all") -> Task:
    """`The war lasted from the year 1743 to the year 17` -> `44` or any later year, `43` or any earlier one wrong.

    Roles: `noun`, `century`, `year` (its last two digits), `century#2`. `template`: lasted (the paper's) or
    started. `century`: 11 to 17, or all in rotation. Years are 02 to 98; for tokenizers that write years digit by
    digit those ending in 9, the only ones after which each next digit is either always right or always wrong.
    The group is the decade. Corruption `01`: the year is 01, so that no year but 00 and 01 is ruled out. Source:
    Hanna et al. 2023, "How does GPT-2 compute greater-than?" (arXiv 2305.00586), section 2. Raises UnknownName.
    """
    if template not in TEXTS:
        raise UnknownName("template of greater-than", template, TEXTS)
    if str(century) not in ("all", *CENTURIES):
        raise UnknownName("century of greater-than", str(century), ("all", *CENTURIES))
    centuries = CENTURIES if century == "all" else (str(century),)
    return Task(
        name=task_name("greater-than", greater_than, template=template, century=century),
        question="which years can follow, when something ends in the century in which it began?",
        source="Hanna et al. 2023, arXiv 2305.00586",
        corruptions=(FIRST_YEAR,),
        cases=partial(_cases, Template(template, TEXTS[template].format("{century}")), centuries),
    )


def _cases(
    template: Template, centuries: Sequence[str], lexicon: Lexicon, _: str, draw: Random
) -> Iterator[Case]:
    nouns = lexicon.fitting("nouns", NOUNS, [(template, "noun")])
    by_decade = {
        century: decades for century in centuries if (decades := _decades(template, century, lexicon))
    }
    while nouns and by_decade:
        for place in range(10):
            for century, decades in by_decade.items():
                year = draw.choice(decades[place % len(decades)])
                yield _case(template, {"noun": draw.choice(nouns), "century": century, "year": year}, draw)


def _decades(template: Template, century: str, lexicon: Lexicon) -> list[list[str]]:
    """Years of a century that this tokenizer can be asked about, by decade."""
    dated = Template(century, TEXTS[template.name].format(century))
    years = lexicon.fitting(f"years of {century}00-{century}99", YEARS, [(dated, "year")], n_tokens=None)
    whole = lexicon.fillers[-1].n_tokens == 1
    asked = [year for year in years if "02" <= year <= "98" and (whole or year.endswith("9"))]
    decades = [[year for year in asked if year[0] == tens] for tens in "0123456789"]
    return [decade for decade in decades if decade] if FIRST_YEAR in years else []


def _case(template: Template, values: dict[str, str], draw: Random) -> Case:
    year = values["year"]
    later = [other for other in YEARS if other > year]
    # With another tens digit than the year's and than each other, answers differ in their first token everywhere.
    correct = draw.choice([other for other in later if other[0] != year[0]] or later)
    incorrect = draw.choice([other for other in YEARS if other[0] < year[0]] or [year])
    return Case(
        template=template,
        clean=values,
        corrupt=values | {"year": FIRST_YEAR},
        correct=correct,
        incorrect=incorrect,
        also_correct=tuple(other for other in later if other != correct),
        also_incorrect=tuple(other for other in YEARS if other <= year and other != incorrect),
        group=f"{year[0]}0s",
        metadata={"year": int(values["century"] + year)},
    )
