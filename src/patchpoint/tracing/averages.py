"""Averages over facts by token role, with intervals that treat each fact, not each token, as one observation."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int

from patchpoint.errors import InvalidArgument

from .bootstrap import CONFIDENCE, RESAMPLES, SEED, interval_over_facts, ratio
from .grid import Grid
from .measures import measure_named
from .roles import ROLES, role_of

BANDS = 4


def role_averages(
    grids: Sequence[Grid],
    measure: str = "indirect_effect",
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = SEED,
) -> xr.Dataset:
    """A measure averaged by token role and layer over facts, dims (role, layer), in the measure's unit.

    `mean`, `std` (sample) and `count` are over every token of every fact, as in `average_by_role`; values that
    are NaN are left out. `facts` is the number of facts with such a token. `low` and `high` bound the mean by
    the percentile bootstrap: facts are drawn with replacement, all their tokens together; NaN with fewer than
    two facts, which say nothing about the spread.

    Raises UnknownName for a measure, InvalidArgument without facts, for facts with different numbers of
    layers, and for numbers out of range.
    """
    cells = measure_named(measure)
    _check(grids, resamples, confidence)
    n_layers = grids[0].effect.shape[1]
    values = np.concatenate([cells(grid) for grid in grids])
    fact = np.repeat(np.arange(len(grids)), [len(grid.tokens) for grid in grids])
    role = np.concatenate([role_numbers(grid) for grid in grids])
    drawn = {"resamples": resamples, "confidence": confidence, "seed": seed}
    table: dict[str, list[np.ndarray]] = {}
    for number in range(len(ROLES)):
        rows = role == number
        for name, row in _averaged(values[rows], fact[rows], len(grids), drawn).items():
            table.setdefault(name, []).append(row)
    coords = {"role": list(ROLES), "layer": np.arange(n_layers)}
    found = {name: (("role", "layer"), np.stack(rows)) for name, rows in table.items()}
    return xr.Dataset(found, coords, {"confidence": confidence})


def strata(grids: Sequence[Grid], *, bands: int = BANDS) -> dict[str, list[Grid]]:
    """Facts by number of tokens, in up to `bands` bands that hold about equally many, the shortest first.

    Facts of one length stay together. The names are such as "5-8 tokens". Raises InvalidArgument for fewer
    than one band.
    """
    if bands < 1:
        raise InvalidArgument(f"bands must be at least 1, got {bands}")
    lengths = np.array([len(grid.tokens) for grid in grids], dtype=np.int64)
    distinct, counts = np.unique(lengths, return_counts=True)
    middles = np.cumsum(counts) - counts / 2
    band = np.floor(middles * bands / max(len(grids), 1))
    found = {}
    for number in np.unique(band):
        inside = distinct[band == number]
        found[_band_name(*inside[[0, -1]].tolist())] = [g for g in grids if len(g.tokens) in inside]
    return found


def _band_name(least: int, most: int) -> str:
    if least == most:
        return f"{least} token{'' if least == 1 else 's'}"
    return f"{least}-{most} tokens"


def _check(grids: Sequence[Grid], resamples: int, confidence: float) -> None:
    if not grids:
        raise InvalidArgument("no facts to average; give at least one heatmap")
    if resamples < 1:
        raise InvalidArgument(f"resamples must be at least 1, got {resamples}")
    if not 0 < confidence < 1:
        raise InvalidArgument(f"confidence must lie between 0 and 1, got {confidence}; 0.95 is usual")
    n_layers = grids[0].effect.shape[1]
    for grid in grids:
        if grid.effect.shape[1] != n_layers:
            raise InvalidArgument(
                f"fact {grid.number} has {grid.effect.shape[1]} layers and fact {grids[0].number} {n_layers}; "
                "average facts of one model"
            )


def role_numbers(grid: Grid) -> Int[np.ndarray, " token"]:
    """The index in ROLES of each token's role, -1 before the subject."""
    start, stop = grid.subject_span
    subject = [start <= position < stop for position in range(len(grid.tokens))]
    roles = [role_of(position, subject) for position in range(len(subject))]
    return np.array([-1 if role is None else ROLES.index(role) for role in roles], dtype=np.int64)


def _averaged(
    values: Float[np.ndarray, "row layer"],
    fact: Int[np.ndarray, " row"],
    n_facts: int,
    drawn: Mapping[str, Any],
) -> dict[str, np.ndarray]:
    """The averages of one role, each of shape (layer,); `fact` says which fact a row is of."""
    there: Bool[np.ndarray, "row layer"] = ~np.isnan(values)
    count = there.sum(axis=0)
    mean = ratio(np.where(there, values, 0.0).sum(axis=0), count)
    squares = (np.where(there, values - mean, 0.0) ** 2).sum(axis=0)
    sums, counts = (np.zeros((n_facts, values.shape[1])) for _ in range(2))
    np.add.at(sums, fact, np.where(there, values, 0.0))
    np.add.at(counts, fact, there)
    facts = (counts > 0).sum(axis=0)
    low, high = interval_over_facts(sums, counts, **drawn)
    return {
        "mean": mean,
        "std": np.sqrt(ratio(squares, np.where(count > 1, count - 1, 0))),
        "count": count,
        "facts": facts,
        "low": low,
        "high": high,
    }
