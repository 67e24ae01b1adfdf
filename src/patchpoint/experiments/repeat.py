"""One prompt traced many times: how much of an effect is the noise that was drawn."""

import hashlib
from dataclasses import replace

from patchpoint.engine import Model
from patchpoint.errors import FactError, InvalidArgument
from patchpoint.tasks.facts import Fact, FactFile

from .condition import WORK, Condition, Work, measure
from .fact_run import answers, chosen
from .findings import spread_over_seeds
from .result import Result
from .settings import SETTINGS, FactSettings

N_SEEDS = 50


def repeat(
    model: Model,
    facts: FactFile,
    *,
    fact: int | None = None,
    seeds: int = N_SEEDS,
    settings: FactSettings = SETTINGS,
    work: Work = WORK,
) -> Result:
    """One prompt many times with new noise, one sample each: mean and spread of the effect at every site.

    `fact` is the file's row (default: the first that can be traced); the k-th time draws from seed + k.
    Raises InvalidArgument for a row that is not there or fewer than 2 seeds.
    """
    if seeds < 2:
        raise InvalidArgument(f"seeds must be at least 2 to have a spread, got {seeds}")
    one = first_traceable(model, facts, settings) if fact is None else chosen(facts, (fact,))[0]
    copies = _copies(one, facts, seeds)
    once = replace(settings, samples=1, own_seeds=True, limit=None)
    found = measure([Condition("repeated", model, once, facts=copies)], facts, work)
    return Result(
        "repeat",
        found,
        {"spread": spread_over_seeds(found["repeated"].grids)},
        {"row of the file": one.number},
    )


def first_traceable(model: Model, facts: FactFile, settings: FactSettings) -> Fact:
    """The file's first fact that the settings do not skip. Raises FactError when there is none."""
    for fact in facts.facts:
        if answers(model, fact, settings):
            return fact
    raise FactError(
        f"the model answers no fact of {str(facts.path)!r}; give other facts, or --answer attribute"
    )


def _copies(fact: Fact, facts: FactFile, times: int) -> FactFile:
    """The fact `times` times, numbered from 1."""
    copies = tuple(replace(fact, number=number) for number in range(1, times + 1))
    name = f"{facts.sha256} row {fact.number}"
    return FactFile(copies, (), facts.path, hashlib.sha256(name.encode()).hexdigest())
