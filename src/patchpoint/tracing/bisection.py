"""The argument at which a falling function of one positive number has a wanted value."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from patchpoint.errors import InvalidArgument

STEP = 2.0
DIGITS = 4
"""Significant digits of the levels tried: the one found is then exactly what its text says."""


@dataclass(frozen=True)
class Bisection:
    """For which ratio in (0, 1) to look, how near as a share of it, and between which levels.

    Raises InvalidArgument for settings that allow no search.
    """

    ratio: float
    tolerance: float
    lowest: float
    highest: float

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise InvalidArgument(
                f"ratio is the wanted p_corrupt / p_clean, between 0 and 1, got {self.ratio}"
            )
        if not self.tolerance > 0:
            raise InvalidArgument(f"tolerance must be above 0, got {self.tolerance}")
        if not 0 < self.lowest < self.highest < math.inf:
            raise InvalidArgument(
                f"levels are looked for from {self.lowest} to {self.highest}; give 0 < lowest < highest"
            )

    def nearest(self, ratio_at: Callable[[float], float]) -> float:
        """The level whose ratio is nearest to the wanted one, of those tried.

        Starts in the middle of the levels, doubles or halves until the ratio is passed, then bisects in the
        logarithm. Raises InvalidArgument where it is not passed.
        """
        tried: dict[float, float] = {}

        def is_weak(level: float) -> bool:
            tried[level] = ratio_at(level)
            return tried[level] > self.ratio

        weak, strong = self._bracket(is_weak, tried)
        while min(abs(reached - self.ratio) for reached in tried.values()) > self.tolerance * self.ratio:
            middle = short(math.sqrt(weak * strong))
            if middle in tried:
                break
            weak, strong = (middle, strong) if is_weak(middle) else (weak, middle)
        return min(tried, key=lambda level: abs(tried[level] - self.ratio))

    def _bracket(self, is_weak: Callable[[float], bool], tried: Mapping[float, float]) -> tuple[float, float]:
        """A level with too little noise and one with too much, a step apart."""
        level = self._within(math.sqrt(self.lowest * self.highest))
        weak = is_weak(level)
        limit, factor = (self.highest, STEP) if weak else (self.lowest, 1 / STEP)
        while level != limit:
            last, level = level, self._within(level * factor)
            if is_weak(level) != weak:
                return (last, level) if weak else (level, last)
        reached = [f"{bound(tried.values()):.4g}" for bound in (min, max)]
        raise InvalidArgument(
            f"no level from {min(tried):.4g} to {max(tried):.4g} gives p_corrupt / p_clean = {self.ratio}: it went "
            f"from {reached[0]} to {reached[1]}; give a ratio between these, or other lowest and highest levels"
        )

    def _within(self, level: float) -> float:
        return min(max(short(level), self.lowest), self.highest)


def short(level: float) -> float:
    """The nearest number of few digits."""
    return float(f"{level:.{DIGITS}g}")
