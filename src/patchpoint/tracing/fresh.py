"""Causal tracing with new noise at every site, as early runs of the method had it.

One long draw: the i-th site has its samples i * n to (i + 1) * n - 1, and corrupted runs of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float

from patchpoint.engine import Model, Run, Variant, sweep
from patchpoint.engine.memory import budget_bytes
from patchpoint.engine.sweep import Progress, base_values

from .exchange import Exchange, with_untouched

SHARE_OF_BUDGET = 0.25
"""What the runs of the sites that are swept together may take; the sweep itself needs the rest."""
KEPT_WIDTHS = 8
"""Rows of d_model numbers kept per token and block: stream, keys, values and one component, of two runs."""

SharesOf = Callable[[slice], tuple[Exchange, Run]]
"""For some samples of the long draw, what is put where, and the corrupted run."""


@dataclass(frozen=True, eq=False)
class Apart:
    """The metric with each state exchanged, of the base and of the corrupted run, dims (token, layer, sample)."""

    samples: xr.DataArray
    base: xr.DataArray
    corrupt: xr.DataArray


def measured_apart(
    sites: Sequence[tuple[int, int]],
    n_samples: int,
    share_of: SharesOf,
    together: int,
    progress: Progress | None = None,
) -> Apart:
    """Every site (token, layer; all layers of each token) measured in samples of its own, `together` at a time.

    Where an exchange cannot matter, before the first token that differs, they are means over the sites.
    """
    exchanged, unchanged, corrupted = [], [], []
    for start in range(0, len(sites), together):
        some = sites[start : start + together]
        asked, corrupt = share_of(slice(start * n_samples, (start + len(some)) * n_samples))
        shape = (len(some), n_samples)
        exchanged.append(_in_own_samples(asked, some, n_samples))
        unchanged.append(base_values(asked.base, asked.metric).numpy().reshape(shape))
        corrupted.append(base_values(corrupt, asked.metric).numpy().reshape(shape))
        if progress is not None:
            progress(start + len(some), len(sites))
    first, n_layers = sites[0][0], 1 + max(layer for _, layer in sites)

    def grid(parts: list[np.ndarray], before: list[np.ndarray]) -> xr.DataArray:
        values = np.concatenate(parts).reshape(-1, n_layers, n_samples)
        return with_untouched(values, np.concatenate(before).mean(0), first)

    return Apart(grid(exchanged, unchanged), grid(unchanged, unchanged), grid(corrupted, corrupted))


def sites_together(model: Model, n_tokens: int, n_samples: int, memory_gib: float | None) -> int:
    """How many sites' runs fit into their share of the memory budget; at least one."""
    site_bytes = n_samples * n_tokens * KEPT_WIDTHS * model.d_model * model.n_layers * model.dtype.itemsize
    return max(1, int(SHARE_OF_BUDGET * budget_bytes(memory_gib, model.device)) // site_bytes)


def _in_own_samples(
    asked: Exchange, sites: Sequence[tuple[int, int]], n: int
) -> Float[np.ndarray, "site sample"]:
    variants = [
        Variant(asked.edits(token, layer), prompts=tuple(range(i * n, (i + 1) * n)))
        for i, (token, layer) in enumerate(sites)
    ]
    swept = sweep(asked.base, variants, asked.metric, memory_gib=asked.memory_gib).values
    return np.stack([swept[i, i * n : (i + 1) * n] for i in range(len(sites))])
