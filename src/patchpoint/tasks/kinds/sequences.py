"""Sequence continuation: four members of a sequence among other words, and the next one to be said.

Lan et al. 2024, "Towards Interpretable Sequence Continuation" (arXiv 2311.04131). Tasks with the same settings and
seed have the same other words and starts in the same order, whatever their members are: `sentence` in the metadata
numbers them, so that the same sentence can be told in numerals, number words and months.
"""

from collections.abc import Mapping
from typing import TypeVar

from patchpoint.errors import InvalidArgument, UnknownName
from patchpoint.tasks.task import Task

from .members import (
    ENGLISH_MONTHS,
    LETTERS,
    NUMERALS,
    NUMWORDS,
    ORDINALS,
    SPANISH_MONTHS,
    WEEKDAYS,
    Range,
    Vocabulary,
)
from .orders import FIBONACCI, ORDERS, Progression
from .sequence_cases import SequenceCases
from .sequence_texts import FORMS, Form, is_finite
from .sequence_twins import TWINS

SOURCE = "Lan et al. 2024, Towards Interpretable Sequence Continuation (arXiv 2311.04131)"
LONG_NUMERALS = (1, 100)
"""Range of numerals in templates without other words, where every window makes one prompt only."""
FEWEST_SHOWN, MOST_SHOWN = 3, 12
Choice = TypeVar("Choice")


def numerals(
    *,
    template: str = "statements",
    order: str = "+1",
    shown: int = 4,
    first: int | None = None,
    last: int | None = None,
) -> Task:
    """`Anna born in 1. Jack born in 2. Tom born in 3. Mary born in 4. Luke born in` -> ` 5`, not ` 4`.

    `template`: a key of FORMS; `order`: a key of ORDERS; `shown`: members in the prompt, 3 to 12; `first`, `last`:
    the numbers that windows lie in, by default 1 to 12 for orders +1 and -1 (1 to 100 where no other words stand
    between them). Corruptions: `random` members that are no sequence, or the same members `swapped`.
    Raises UnknownName, and InvalidArgument where no window fits. Lan et al. 2024.
    """
    return _task(NUMERALS, template, order, shown, first=first, last=last)


def numwords(
    *,
    template: str = "statements",
    order: str = "+1",
    shown: int = 4,
    first: int | None = None,
    last: int | None = None,
) -> Task:
    """`Anna born in one. Jack born in two. ... Luke born in` -> ` five`; one to twelve by default.

    Settings, corruptions and errors are those of `numerals`. Lan et al. 2024.
    """
    return _task(NUMWORDS, template, order, shown, first=first, last=last)


def months(*, template: str = "statements", order: str = "+1", shown: int = 4) -> Task:
    """`Anna born in January. Jack born in February. ... Luke born in` -> ` May`; no window goes beyond December.

    Settings, corruptions and errors are those of `numerals`. Lan et al. 2024.
    """
    return _task(ENGLISH_MONTHS, template, order, shown)


def spanish_months(*, template: str = "statements", order: str = "+1", shown: int = 4) -> Task:
    """`Anna born in enero. Jack born in febrero. ... Luke born in` -> ` mayo`: English sentences, as in the study.

    Settings, corruptions and errors are those of `numerals`. Lan et al. 2024.
    """
    return _task(SPANISH_MONTHS, template, order, shown)


def days(*, template: str = "statements", order: str = "+1", shown: int = 4) -> Task:
    """`Anna born on Monday. Jack born on Tuesday. ... Luke born on` -> ` Friday`; Monday follows Sunday.

    Settings, corruptions and errors are those of `numerals`. After Lan et al. 2024.
    """
    return _task(WEEKDAYS, template, order, shown)


def ordinals(*, template: str = "statements", order: str = "+1", shown: int = 4) -> Task:
    """`Anna born on the first. Jack born on the second. ... Luke born on the` -> ` fifth`; to the twelfth.

    Settings, corruptions and errors are those of `numerals`; other orders go to the twentieth. After Lan et al. 2024.
    """
    return _task(ORDINALS, template, order, shown)


def letters(*, template: str = "statements", order: str = "+1", shown: int = 4) -> Task:
    """`Anna born in A. Jack born in B. ... Luke born in` -> ` E`; A to L.

    Settings, corruptions and errors are those of `numerals`; orders but +1 and -1 go to Z. After Lan et al. 2024.
    """
    return _task(LETTERS, template, order, shown)


def fibonacci(
    *, template: str = "statements", shown: int = 4, first: int | None = None, last: int | None = None
) -> Task:
    """`Anna born in 2. Jack born in 3. Tom born in 5. Mary born in 8. Luke born in` -> ` 13`, not ` 8`.

    Each member is the sum of the two before it; the first two are any from `first` to `last` (1 to 5). Other
    settings, corruptions and errors are those of `numerals`. The study's notes ask it of larger models.
    """
    _check_shown(shown)
    low, high = _limits(NUMERALS, first, last, (1, 5))
    starts = tuple((a, b) for a in range(low, high + 1) for b in range(low, high + 1))
    progression = Progression(NUMERALS, FIBONACCI, shown, starts, 1, len(NUMERALS))
    name = _name("fibonacci", template=template, shown=shown, first=first, last=last)
    return _made(name, progression, _known("template of fibonacci", template, FORMS))


def _task(
    vocabulary: Vocabulary,
    template: str,
    order: str,
    shown: int,
    *,
    first: int | None = None,
    last: int | None = None,
) -> Task:
    forms = _known(f"template of {vocabulary.name}", template, FORMS)
    rule = _known(f"order of {vocabulary.name}", order, ORDERS)
    _check_shown(shown)
    usual = vocabulary.range(order)
    if vocabulary is NUMERALS and is_finite(forms) and usual[1] <= LONG_NUMERALS[1]:
        usual = LONG_NUMERALS
    limits = _limits(vocabulary, first, last, usual)
    progression = Progression.of_steps(vocabulary, rule, shown, *limits)
    name = _name(vocabulary.name, template=template, order=order, shown=shown, first=first, last=last)
    return _made(name, progression, forms)


def _known(kind: str, name: str, table: Mapping[str, Choice]) -> Choice:
    if not isinstance(name, str) or name not in table:
        raise UnknownName(kind, str(name), tuple(table))
    return table[name]


def _check_shown(shown: int) -> None:
    if type(shown) is not int or not FEWEST_SHOWN <= shown <= MOST_SHOWN:
        raise InvalidArgument(
            f"shown={shown!r}: give the number of members in a prompt, {FEWEST_SHOWN} to {MOST_SHOWN}"
        )


def _limits(vocabulary: Vocabulary, first: int | None, last: int | None, usual: Range) -> Range:
    low, high = usual[0] if first is None else first, usual[1] if last is None else last
    if type(low) is not int or type(high) is not int or not 1 <= low < high <= len(vocabulary):
        raise InvalidArgument(
            f"{vocabulary.name}: first={low!r} and last={high!r}; give two integers, the first below the last, "
            f"from 1 to {len(vocabulary)}"
        )
    return low, high


def _name(task: str, **settings: str | int | None) -> str:
    usual = {"template": "statements", "order": "+1", "shown": 4, "first": None, "last": None}
    return " ".join([task, *(f"{key}={value}" for key, value in settings.items() if value != usual[key])])


def _made(name: str, progression: Progression, forms: tuple[Form, ...]) -> Task:
    what = f"{progression.n_shown} {progression.vocabulary.name}"
    return Task(
        name,
        f"say the member that follows {what} in the order {progression.order.name}",
        SOURCE,
        tuple(TWINS),
        SequenceCases(progression, forms),
    )
