"""Every task by name, and which of them a model is checked on."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from patchpoint.errors import UnknownName

from .kinds.agreement import subject_verb_agreement
from .kinds.analogy import analogy
from .kinds.arithmetic import arithmetic
from .kinds.article import a_an
from .kinds.comparison import comparison
from .kinds.country_facts import facts
from .kinds.custom import custom
from .kinds.docstring import docstring
from .kinds.gendered_pronoun import gendered_pronoun
from .kinds.greater_than import greater_than
from .kinds.induction import induction
from .kinds.ioi import ioi
from .kinds.sequences import days, fibonacci, letters, months, numerals, numwords, ordinals, spanish_months
from .task import Task

Maker = Callable[..., Task]
TASKS: dict[str, Maker] = {
    "numerals": numerals,
    "numwords": numwords,
    "months": months,
    "spanish-months": spanish_months,
    "days": days,
    "ordinals": ordinals,
    "letters": letters,
    "fibonacci": fibonacci,
    "ioi": ioi,
    "greater-than": greater_than,
    "gendered-pronoun": gendered_pronoun,
    "subject-verb-agreement": subject_verb_agreement,
    "docstring": docstring,
    "a-an": a_an,
    "comparison": comparison,
    "analogy": analogy,
    "induction": induction,
    "arithmetic": arithmetic,
    "facts": facts,
    "custom": custom,
}
Entry = tuple[str, Mapping[str, Any]]
_VARIANTS: dict[str, tuple[Mapping[str, Any], ...]] = {
    "numerals": (
        {"template": "pure"},
        {"template": "between"},
        {"template": "repeated"},
        *({"order": order} for order in ("+2", "+3", "+10", "x2", "-1")),
    ),
    "numwords": ({"order": "+2"}, {"order": "-1"}),
    "analogy": ({"template": "roles"}, {"template": "pairs"}),
    "arithmetic": ({"template": "difference"}, {"template": "story-sum"}, {"template": "months-pass"}),
}
"""By task, settings under which it is another thing to be able to do."""
CHECKED: tuple[Entry, ...] = tuple(
    (name, settings) for name in TASKS if name != "custom" for settings in ({}, *_VARIANTS.get(name, ()))
)
"""What `patchpoint task check` measures: names with settings."""


def task(name: str, **settings: Any) -> Task:
    """The task of this name, with its own settings where given (`patchpoint task list` shows them).

    Raises UnknownName for a task or a setting that is not there.
    """
    if name not in TASKS:
        raise UnknownName("task", name, TASKS)
    maker = TASKS[name]
    known = settings_of(maker)
    for setting in settings:
        if setting not in known:
            raise UnknownName(f"setting of {name}", setting, known)
    return maker(**settings)


def settings_of(maker: Maker) -> dict[str, Any]:
    """A task's settings with their defaults."""
    return {name: parameter.default for name, parameter in inspect.signature(maker).parameters.items()}
