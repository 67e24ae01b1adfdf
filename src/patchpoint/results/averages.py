"""The facts of a saved run as heatmaps, and averages over them."""

import numpy as np
import xarray as xr

from patchpoint.tracing.averages import role_averages
from patchpoint.tracing.grid import Grid

from .read import SavedRun


def grids_of(run: SavedRun) -> list[Grid]:
    """The heatmap of each traced fact of a run, by fact number; numbers that a foreign file lacked are NaN."""
    return [_grid(run, number) for number in run.traced()]


def saved_roles(run: SavedRun) -> xr.Dataset | None:
    """The effect averaged by role over a run's traced facts, as `role_averages` gives it; None without any.

    The marks come from the stored spans, so that a prompt which itself holds a `*` is read right.
    """
    grids = grids_of(run)
    return role_averages(grids) if grids else None


def _grid(run: SavedRun, number: int) -> Grid:
    row = run.fact(number)
    clean, corrupt = (np.nan if row[name] is None else row[name] for name in ("p_clean", "p_corrupt"))
    return Grid(
        number=number,
        prompt=row["prompt"],
        subject=row["subject"],
        answer=row["answer"] or "",
        tokens=tuple(row["tokens"]),
        subject_span=(row["subject_start"], row["subject_stop"]),
        spans={span["name"]: (span["start"], span["stop"]) for span in row["spans"] or ()},
        p_clean=clean,
        p_corrupt=corrupt,
        direction=run.record.arguments.get("direction", "restore"),
        effect=run.effect(number).values,
        effect_se=run.measure(number, "effect_se").values,
        exact=run.exact(number).values,
    )
