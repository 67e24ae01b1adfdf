"""The texts that members of a sequence stand in, and the words around them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from patchpoint.tasks.template import Template

from .words import NOUNS, first_names

N_NAMES = 500
"""As many first names as the study drew, here the most common ones."""

_PLURALS = """
    days cats dogs books cars apples pages weeks years boats birds doors trees cups houses chairs tables stars songs
    eggs coins horses rooms girls boys hats maps roads rings balls games steps points lines words names miles hours
"""

FILLERS: Mapping[str, Callable[[], tuple[str, ...]]] = {
    "names": lambda: first_names()[:N_NAMES],
    "nouns": lambda: NOUNS,
    "small nouns": lambda: tuple(noun.lower() for noun in NOUNS),
    "plurals": lambda: tuple(_PLURALS.split()),
}
"""What may stand in the other slots of a form, by name."""


@dataclass(frozen=True)
class Form:
    """A way to write a sequence: the members in `S1`, `S2`, ..., words of the list `fillers` in the other slots.

    `text(n_shown, preposition)`: the template's text. Without fillers every window makes one prompt only.
    """

    name: str
    text: Callable[[int, str], str]
    fillers: str | None

    def template(self, n_shown: int, preposition: str) -> Template:
        """The form for this many members."""
        return Template(self.name, self.text(n_shown, preposition))


def _statements(verb: str) -> Callable[[int, str], str]:
    def text(n_shown: int, preposition: str) -> str:
        told = [f"{{X{i}}} {verb} {preposition} {{S{i}}}." for i in range(1, n_shown + 1)]
        return " ".join([*told, f"{{X{n_shown + 1}}} {verb} {preposition}"])

    return text


def _between(n_shown: int, preposition: str) -> str:
    pairs = [f"{{X{i}}} {{S{i}}}" for i in range(1, n_shown + 1)]
    return " ".join([*pairs, f"{{X{n_shown + 1}}}"])


def _repeated(n_shown: int, preposition: str) -> str:
    return " ".join([*(f"{{X}} {{S{i}}}" for i in range(1, n_shown + 1)), "{X}"])


def _pure(n_shown: int, preposition: str) -> str:
    return " ".join(f"{{S{i}}}" for i in range(1, n_shown + 1))


def _listed(n_shown: int, preposition: str) -> str:
    return ", ".join(f"{{S{i}}}" for i in range(1, n_shown + 1)) + ","


_SHORT = (
    Form("born", _statements("born"), "names"),
    Form("lost", _statements("lost"), "nouns"),
    Form("done", _statements("done"), "nouns"),
)
_WAS = (
    Form("was-born", _statements("was born"), "names"),
    Form("was-lost", _statements("was lost"), "nouns"),
    Form("was-done", _statements("was done"), "nouns"),
)
_SINGLE = (
    *_SHORT,
    *_WAS,
    Form("between", _between, "small nouns"),
    Form("repeated", _repeated, "plurals"),
    Form("pure", _pure, None),
    Form("listed", _listed, None),
)
FORMS: Mapping[str, tuple[Form, ...]] = {
    "statements": _SHORT,
    "was-statements": _WAS,
    **{form.name: (form,) for form in _SINGLE},
}
"""Template setting of a sequence task -> the forms that it has in rotation."""


def is_finite(forms: tuple[Form, ...]) -> bool:
    """Whether every window makes one prompt only."""
    return all(form.fillers is None for form in forms)
