"""The numbers of an experiment as tables, one row per number that a figure shows."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from patchpoint.experiments import Result
from patchpoint.experiments.findings import EXPECTED
from patchpoint.tracing.averages import role_averages, strata
from patchpoint.tracing.grid import Grid

from .tables import Table

LEAST_FACTS = 8
"""Fewer facts are not cut into bands by length."""


def tables_of(result: Result) -> Iterator[Table]:
    """Peaks and averages by role, strata by length, the facts, and the experiment's own findings."""
    if result.conditions:
        yield _table(
            "peaks", peaks(result), "Where the mean effect is largest in each role, with its 95% interval"
        )
        yield _table("averages", averages(result), "Every measure by condition, token role and layer")
        if any(_varies(measured.grids) for measured in result.conditions.values()):
            yield _table("strata", stratified(result), "Peaks of facts with different numbers of tokens")
        yield _table("facts", result.totals, "The facts, their probabilities and total effects")
    for name, found in result.findings.items():
        yield _table(name, frame(found), name[:1].upper() + name[1:])
    for name, measured in result.conditions.items():
        if measured.agreement is not None:
            words = f"Agreement of method {measured.settings.method} with the exact sweep on checked facts, {name}"
            yield _table(f"agreement {name}", frame(measured.agreement), words)


def _varies(grids: Sequence[Grid]) -> bool:
    """Whether there are facts enough, and of different lengths."""
    return len(grids) >= LEAST_FACTS and len({len(grid.tokens) for grid in grids}) > 1


def _table(name: str, rows: pd.DataFrame, caption: str) -> Table:
    return Table(name=file_name(name), frame=rows, caption=caption)


def peaks(result: Result) -> pd.DataFrame:
    """One row per condition and role: the layer of the largest mean effect in the expected direction."""
    rows = [
        {"condition": name, **row}
        for name, measured in result.conditions.items()
        for row in _peaks(measured.grids)
    ]
    return pd.DataFrame(rows)


def averages(result: Result) -> pd.DataFrame:
    """One row per condition, measure, role and layer: mean, std, count, facts and interval."""
    return frame(result.averages)


def stratified(result: Result) -> pd.DataFrame:
    """One row per condition, band of lengths and role: the peak in that band."""
    rows = [
        {"condition": name, "length": band, **row}
        for name, measured in result.conditions.items()
        for band, grids in strata(measured.grids).items()
        for row in _peaks(grids)
    ]
    return pd.DataFrame(rows)


def frame(found: xr.Dataset) -> pd.DataFrame:
    """A labelled dataset as rows, those without any number left out."""
    rows = found.to_dataframe().reset_index()
    numbers = [name for name in found.data_vars if np.issubdtype(found[name].dtype, np.floating)]
    return rows.dropna(subset=numbers, how="all").reset_index(drop=True)


def file_name(words: str) -> str:
    """A table's or figure's name as a file has it."""
    kept = "".join(
        character if character.isalnum() or character in ".-" else "-" for character in words.lower()
    )
    return "-".join(part for part in kept.split("-") if part)


def _peaks(grids: Sequence[Grid]) -> Iterator[Mapping[str, object]]:
    found = role_averages(grids)
    expected = EXPECTED[grids[0].direction]
    for role in found["role"].values:
        row = found.sel(role=role)
        if row["mean"].isnull().all():
            continue
        at = row.isel(layer=int((expected * row["mean"]).argmax("layer")))
        yield {
            "role": str(role),
            "layer": int(at["layer"]),
            **{name: float(at[name]) for name in ("mean", "low", "high", "std")},
            "tokens": int(at["count"]),
            "facts": int(at["facts"]),
        }
