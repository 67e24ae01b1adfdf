"""Means over facts with bootstrap intervals."""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from jaxtyping import Float

from patchpoint.tracing.bootstrap import CONFIDENCE, interval_over_facts, ratio


def mean_over_facts(
    values: Float[np.ndarray, "fact ..."],
    dims: tuple[str, ...],
    coords: Mapping[str, object],
    name: str = "mean",
) -> xr.Dataset:
    """Mean over facts (axis 0), count of facts, and the 95% bootstrap interval `low`, `high`; NaN is left out.

    `dims` and `coords` are those of the other axes. The interval is NaN where fewer than two facts have a value.
    """
    known = ~np.isnan(values).reshape(len(values), -1)
    sums, counts = np.where(known, values.reshape(known.shape), 0.0), known.astype(np.float64)
    low, high = interval_over_facts(sums, counts)
    parts = {
        name: ratio(sums.sum(axis=0), counts.sum(axis=0)),
        "low": low,
        "high": high,
        "count": known.sum(axis=0),
    }
    place = values.shape[1:]
    found = {key: (dims, part.reshape(place)) for key, part in parts.items()}
    return xr.Dataset(found, coords, {"confidence": CONFIDENCE})
