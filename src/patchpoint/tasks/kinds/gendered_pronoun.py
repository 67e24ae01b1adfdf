"""Gendered pronoun: a tag question says he or she, as the first name does."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from random import Random

from patchpoint.errors import UnknownName
from patchpoint.tasks.case import Case
from patchpoint.tasks.lexicon import Lexicon
from patchpoint.tasks.naming import task_name
from patchpoint.tasks.task import Task
from patchpoint.tasks.template import Template

from .words import female_names, male_names

ROTATED: Mapping[str, str] = {
    "really": "So {name} is a really great {role}, isn't",
    "such": "So {name} is such a great {role}, isn't",
    "still": "So {name} is still a great {role}, isn't",
}
"""All of one number of words, so that one call can mix them."""
SINGLE: Mapping[str, str] = {"say": "So you say {name} is a great {role}, isn't"}
"""Longer ones, for a call of their own."""
N_NAMES = 80
"""How many of the most common names of each gender are tried."""
_ROLES = """
    friend cook neighbor singer writer student artist player dancer driver painter runner swimmer speaker reader
    leader guide host guest partner teacher doctor lawyer musician person worker scientist
"""
ROLES = tuple(_ROLES.split())
PRONOUNS: Mapping[str, str] = {"female": " she", "male": " he"}
OTHER: Mapping[str, str] = {"female": "male", "male": "female"}


def gendered_pronoun(*, template: str = "all") -> Task:
    """`So Mary is a really great friend, isn't` -> ` she`, not ` he`.

    Roles: `name`, `role` (a word for women and men alike). `template`: really (the published one), such, still, all
    (these in rotation), or say (`So you say Mary is ...`, for models that would go on with ` it`). The group is the
    gender; names that are given to both are not among them. Corruption `swapped`: a name of the other gender, where
    the answer is the other pronoun. Source: Mathwin et al. 2023, "Identifying a Preliminary Circuit for Predicting
    Gendered Pronouns in GPT-2 Small". Raises UnknownName.
    """
    texts = {**ROTATED, **SINGLE}
    if template != "all" and template not in texts:
        raise UnknownName("template of gendered-pronoun", template, ("all", *texts))
    chosen = tuple(ROTATED) if template == "all" else (template,)
    return Task(
        name=task_name("gendered-pronoun", gendered_pronoun, template=template),
        question="does he or she stand for a person of this first name?",
        source="Mathwin et al. 2023, Apart Research",
        corruptions=("swapped",),
        cases=partial(_cases, tuple(Template(name, texts[name]) for name in chosen)),
    )


def _cases(templates: Sequence[Template], lexicon: Lexicon, _: str, draw: Random) -> Iterator[Case]:
    places = [(template, "name") for template in templates]
    names = {
        "female": lexicon.fitting("names of women", female_names()[:N_NAMES], places),
        "male": lexicon.fitting("names of men", male_names()[:N_NAMES], places),
    }
    roles = lexicon.fitting("roles", ROLES, [(template, "role") for template in templates])
    while all(names.values()) and roles:
        for template in templates:
            for gender, other in OTHER.items():
                values = {"name": draw.choice(names[gender]), "role": draw.choice(roles)}
                yield Case(
                    template=template,
                    clean=values,
                    corrupt=values | {"name": draw.choice(names[other])},
                    correct=PRONOUNS[gender],
                    incorrect=PRONOUNS[other],
                    group=gender,
                )
