"""The corruption that every task has: another prompt of the same task."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from random import Random

from .case import Case

RESAMPLED = "resampled"
POOL, TRIES = 512, 64


def resampled(cases: Iterable[Case], others: Iterable[Case], draw: Random) -> Iterator[Case]:
    """Each case with the clean values of another of the same template and with another answer as its twin.

    Cases for which no such other is found are left out.
    """
    pool: dict[str, list[Case]] = {}
    for other in islice(others, POOL):
        pool.setdefault(other.template.text, []).append(other)
    for case in cases:
        fellows = pool.get(case.template.text, [])
        tries = (draw.choice(fellows) for _ in range(TRIES if fellows else 0))
        twin = next((other for other in tries if other.correct != case.correct), None)
        if twin is not None:
            yield replace(case, corrupt=twin.clean)
