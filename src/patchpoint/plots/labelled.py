"""The labelled numbers of averages and curves, checked before they are drawn."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float

from patchpoint.errors import InvalidArgument

from .labels import drawable, prose
from .lettering import extent
from .rows import LABEL_SIZE


def table(
    data: xr.Dataset, names: Sequence[str], dims: tuple[str, ...]
) -> dict[str, Float[np.ndarray, "..."]]:
    """The variables of these names as float64 arrays over `dims` in this order.

    Raises InvalidArgument when one is missing, has other dims, is empty or holds infinite values.
    """
    arrays = {}
    for name in names:
        if name not in data:
            raise InvalidArgument(
                f"a figure got labelled data without {name!r}; expected {', '.join(names)} over {dims}"
            )
        if set(data[name].dims) != set(dims) or not data[name].size:
            sizes = dict(data[name].sizes)
            raise InvalidArgument(
                f"{name!r} has dims {sizes}, expected at least one entry along each of {dims}"
            )
        arrays[name] = data[name].transpose(*dims).values.astype(np.float64)
        if np.isinf(arrays[name]).any():
            raise InvalidArgument(f"{name!r} holds infinite values; give NaN where nothing was measured")
    return arrays


def interval_words(data: xr.Dataset) -> str:
    """What the ends `low` and `high` are, e.g. ``95% interval``, as far as the data says."""
    confidence = data.attrs.get("confidence")
    return "confidence interval" if confidence is None else f"{100 * confidence:g}% interval"


def role_labels(averages: xr.Dataset) -> tuple[str, ...]:
    """Each role with its number of tokens, e.g. ``last token (n = 1,000)``, the most at any layer."""
    count = table(averages, ("count",), ("role", "layer"))["count"].max(axis=1)
    roles = averages["role"].values.tolist()
    return tuple(
        drawable(f"{prose(str(role))} (n = {int(n):,})") for role, n in zip(roles, count, strict=True)
    )


def role_label_inches(averages: xr.Dataset) -> float:
    """Width of the widest of `role_labels`."""
    return max(extent(label, LABEL_SIZE) for label in role_labels(averages)) / 72 + 0.15
