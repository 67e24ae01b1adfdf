"""What is read off a heatmap: the indirect effect, or its share of the total effect, with or without a cut-off."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from patchpoint.errors import UnknownName

from .grid import Grid

Cells = Float[np.ndarray, "token layer"]
CUT: dict[str, Callable[[Cells, float], Cells]] = {"restore": np.maximum, "corrupt": np.minimum}
"""By direction, what sets effects of the unexpected sign to 0."""


@dataclass(frozen=True)
class Measure:
    """A function from a heatmap to values of shape (token, layer), and its name on figures and tables."""

    title: str
    cells: Callable[[Grid], Cells]

    def __call__(self, grid: Grid) -> Cells:
        """The values, shape (token, layer), float64; NaN where the effect is."""
        return self.cells(grid)


def indirect_effect(grid: Grid) -> Cells:
    """The indirect effect, in the run's metric. Meng et al. 2022, section 2."""
    return np.asarray(grid.effect, dtype=np.float64)


def percent_improvement(grid: Grid) -> Cells:
    """The indirect effect over the magnitude of the total effect, a ratio (1 is 100%).

    NaN everywhere where the total effect is 0 or not known.
    """
    total = abs(grid.total_effect)
    return indirect_effect(grid) / (total if total else np.nan)


def _cut(cells: Callable[[Grid], Cells]) -> Callable[[Grid], Cells]:
    return lambda grid: CUT[grid.direction](cells(grid), 0.0)


MEASURES: dict[str, Measure] = {
    "indirect_effect": Measure("indirect effect", indirect_effect),
    "indirect_effect_cut": Measure("indirect effect, cut off at 0", _cut(indirect_effect)),
    "percent_improvement": Measure("percent improvement", percent_improvement),
    "percent_improvement_cut": Measure("percent improvement, cut off at 0", _cut(percent_improvement)),
}


def measure_named(name: str) -> Measure:
    """The measure of a name. Raises UnknownName."""
    if name not in MEASURES:
        raise UnknownName("measure", name, MEASURES)
    return MEASURES[name]
