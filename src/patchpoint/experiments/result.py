"""What an experiment found, labelled: every fact's heatmap under every condition, and averages over them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd
import xarray as xr

from patchpoint.errors import UnknownName
from patchpoint.tracing.averages import role_averages
from patchpoint.tracing.grid import Grid
from patchpoint.tracing.measures import MEASURES

from .settings import FactSettings


@dataclass(frozen=True, eq=False)
class Measured:
    """All facts under one condition: its settings, the model's name, and one heatmap per traced fact."""

    settings: FactSettings
    model: str
    grids: tuple[Grid, ...]
    n_skipped: int = 0
    """Facts that were asked for and could not be traced."""
    noise_std: float | None = None
    """Standard deviation of the noise where one number describes it."""
    agreement: xr.Dataset | None = None
    """With the exact sweep where the method is an approximation: mean and interval by measure, over checked facts."""


@dataclass(frozen=True, eq=False)
class Result:
    """What an experiment found.

    `conditions` by name; `findings` are the experiment's own answers, each an `xarray.Dataset` with a `mean` (or
    `share`) and its interval `low`, `high` (95%, bootstrap over facts). `answer`: single numbers by name, where the
    experiment ends in some.
    """

    name: str
    conditions: Mapping[str, Measured]
    findings: Mapping[str, xr.Dataset] = field(default_factory=dict)
    answer: Mapping[str, object] = field(default_factory=dict)

    @property
    def averages(self) -> xr.Dataset:
        """Mean, std, count, facts, low and high of every measure, dims (condition, measure, role, layer).

        Conditions with different numbers of layers are aligned, NaN where a model has no such layer.
        """
        found = {name: self._measures(name) for name in self.conditions if self.conditions[name].grids}
        return xr.concat(list(found.values()), pd.Index(list(found), name="condition"), join="outer")

    def average(self, condition: str, measure: str = "indirect_effect") -> xr.Dataset:
        """Averages by role and layer of one measure under one condition. Raises UnknownName."""
        return role_averages(self.grids(condition), measure)

    def grids(self, condition: str) -> tuple[Grid, ...]:
        """The heatmaps of one condition, in the order in which the facts were traced. Raises UnknownName."""
        if condition not in self.conditions:
            raise UnknownName("condition", condition, self.conditions)
        return self.conditions[condition].grids

    @property
    def totals(self) -> pd.DataFrame:
        """One row per condition and fact: tokens, answer, p_clean, p_corrupt and the total effect."""
        rows = [
            {
                "condition": name,
                "fact": grid.number,
                "prompt": grid.prompt,
                "answer": grid.answer,
                "n_tokens": len(grid.tokens),
                "p_clean": grid.p_clean,
                "p_corrupt": grid.p_corrupt,
                "total_effect": grid.total_effect,
            }
            for name, measured in self.conditions.items()
            for grid in measured.grids
        ]
        return pd.DataFrame(rows)

    def _measures(self, condition: str) -> xr.Dataset:
        parts = [role_averages(self.grids(condition), measure) for measure in MEASURES]
        return xr.concat(parts, pd.Index(list(MEASURES), name="measure"))
