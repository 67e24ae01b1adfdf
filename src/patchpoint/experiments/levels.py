"""Experiments on the size of the noise."""

import math
from collections.abc import Sequence
from dataclasses import replace

from patchpoint.engine import Model
from patchpoint.errors import InvalidArgument
from patchpoint.tasks.facts import FactFile

from .condition import WORK, Condition, Work, measure
from .findings import by_level
from .result import Result
from .settings import SETTINGS, FactSettings

LEVELS = (1e-6, 0.001, 0.01, 0.1, 0.5, 1.0, 1.5, 2.5, 5.0, 10.0, 100.0, 1e6)
"""Standard deviations of the study."""
N_FACTS = 10


def vary_noise(
    model: Model,
    facts: FactFile,
    *,
    levels: Sequence[float] = LEVELS,
    limit: int | None = N_FACTS,
    settings: FactSettings = SETTINGS,
    work: Work = WORK,
) -> Result:
    """Gaussian noise of many standard deviations, the same directions at each: effects and p* against the std.

    Raises InvalidArgument for levels that are not finite, not positive or named twice.
    """
    if not levels or len(set(levels)) != len(levels) or not all(0 < x < math.inf for x in levels):
        raise InvalidArgument(
            f"levels must be different positive standard deviations, got {', '.join(map(str, levels))}"
        )
    conditions = [
        Condition(f"std {level:g}", model, replace(settings, noise=repr(float(level)), limit=limit))
        for level in sorted(levels)
    ]
    found = measure(conditions, facts, work)
    by_std = {
        level: found[condition.name].grids
        for level, condition in zip(sorted(levels), conditions, strict=True)
    }
    return Result("vary-noise", found, by_level(by_std))
