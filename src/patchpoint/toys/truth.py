"""How well scores tell true parts from all others: the area under the ROC curve.

Equal to the chance that a true part has a larger score than another one, both drawn at random, equal scores counted
half (Hanley and McNeil 1982). Scores are taken without their sign. Measured for edges as in Conmy et al. 2023 (arXiv
2304.14997, section 4) and Mueller et al. 2025 (arXiv 2504.13151, section 4).

Scores below ROUNDING of the largest count as 0: in float32 what cancels exactly leaves less than that, and would
otherwise rank above parts that were never touched.
"""

from collections.abc import Collection

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

from patchpoint.errors import InvalidArgument, UnknownName

ROUNDING = 1e-6


def edge_auc(scores: xr.DataArray, truth: Collection[tuple[str, str]]) -> float:
    """The area for scores of dims (sender, port), NaN where there is no such edge; `truth`: names of true edges.

    0.5: no better than chance. Raises UnknownName, and InvalidArgument for other dims, true edges without a
    score, and where all scored edges are true or none is.
    """
    true = _marked(scores, ("sender", "port"), truth)
    return _auc(np.abs(scores.values), true)


def node_auc(scores: xr.DataArray, truth: Collection[str]) -> float:
    """As `edge_auc` for scores of dim node, an embedding among them left out."""
    if "node" in scores.coords:
        scores = scores[scores["node"].values != "embed"]
    true = _marked(scores, ("node",), [(name,) for name in truth])
    return _auc(np.abs(scores.values), true)


def _marked(
    scores: xr.DataArray, dims: tuple[str, ...], truth: Collection[tuple[str, ...]]
) -> Bool[np.ndarray, "..."]:
    """Which entries are true."""
    if scores.dims != dims or any(dim not in scores.coords for dim in dims):
        raise InvalidArgument(
            f"scores have the named dims {dims}; got {tuple(scores.dims)} with coordinates {list(scores.coords)}"
        )
    places = [{str(name): i for i, name in enumerate(scores[dim].values)} for dim in dims]
    true = np.zeros(scores.shape, dtype=bool)
    for names in truth:
        for dim, name, place in zip(dims, names, places, strict=True):
            if name not in place:
                raise UnknownName(dim, name, place)
        at = tuple(place[name] for name, place in zip(names, places, strict=True))
        if np.isnan(scores.values[at]):
            raise InvalidArgument(
                f"{' -> '.join(names)} is true and has no score; give every part one, 0 where it was not kept"
            )
        true[at] = True
    return true


def _auc(values: Float[np.ndarray, "..."], true: Bool[np.ndarray, "..."]) -> float:
    scored = ~np.isnan(values)
    values = np.where(values < ROUNDING * np.max(values, initial=0.0, where=scored), 0.0, values)
    positive, negative = values[true & scored], np.sort(values[~true & scored])
    if not len(positive) or not len(negative):
        raise InvalidArgument(
            f"an area needs true parts and others; {len(positive)} of {int(scored.sum())} scored parts are true"
        )
    below = np.searchsorted(negative, positive, side="left")
    up_to = np.searchsorted(negative, positive, side="right")
    return float((below + up_to).sum() / (2 * len(positive) * len(negative)))
