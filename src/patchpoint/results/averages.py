"""Averages over the facts of a saved run."""

import xarray as xr

from patchpoint.tracing import average_by_role

from .read import SavedRun


def saved_roles(run: SavedRun) -> xr.Dataset | None:
    """Mean, std and count of the effect, dims (role, layer), over a run's traced facts; None without any.

    The marks come from the stored spans, so that a prompt which itself holds a `*` is read right.
    """
    numbers = run.traced()
    if not numbers:
        return None
    marks = []
    for row in map(run.fact, numbers):
        span = range(row["subject_start"], row["subject_stop"])
        marks.append(["*" if position in span else "" for position in range(len(row["tokens"]))])
    return average_by_role([run.effect(number) for number in numbers], marks)
