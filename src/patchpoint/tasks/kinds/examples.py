"""Solved examples in front of a question, for models that answer only when shown how."""

from collections.abc import Mapping

from patchpoint.errors import InvalidArgument
from patchpoint.tasks.template import Template

MOST = 16
"""More examples than any model needs."""


def with_examples(name: str, question: str, solution: str, n: int) -> Template:
    """A template of `n` solved examples and a question that is left open.

    `solution` is what follows a question with its answer, to the beginning of the next one. A slot `a` is called
    `a1`, `a2`, ... in the examples and `a` in the question. Raises InvalidArgument for `n` outside 0 to 16.
    """
    if isinstance(n, bool) or not isinstance(n, int) or not 0 <= n <= MOST:
        raise InvalidArgument(f"examples must be a whole number from 0 to {MOST}, got {n!r}")
    solved = Template(name, question + solution)
    examples = (
        solved.text.format(**{slot: f"{{{slot}{number}}}" for slot in solved.slots})
        for number in range(1, n + 1)
    )
    return Template(name, "".join(examples) + question)


def example_values(values: Mapping[str, str], number: int) -> dict[str, str]:
    """Values of a question and its solution, named as those of example `number` (from 1)."""
    return {f"{slot}{number}": value for slot, value in values.items()}


def places_of(template: Template, slot: str) -> list[tuple[Template, str]]:
    """Where a slot stands in a template of `with_examples`: in the examples and in the question."""
    return [
        (template, name)
        for name in template.slots
        if name == slot or (name.startswith(slot) and name.removeprefix(slot).isdigit())
    ]
