"""The sweep of causal tracing: each state of one run put into another, one token and layer at a time."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import xarray as xr

from patchpoint.engine import Edit, Run, Site, Variant, sweep
from patchpoint.engine.sweep import Progress, base_values

STATES = {"resid": "resid_post", "mlp": "mlp_out", "attn": "attn_out"}
"""What is exchanged, as the component whose value it is; MLP and attention outputs over a window of layers."""


@dataclass(frozen=True, eq=False)
class Exchange:
    """What is put where: states of `source` into `base`, from token `first` on, the first that can differ.

    `base` has one prompt per sample of one text, `source` as many or a single one. `sever` names the outputs
    ("mlp" or "attn") that keep the base's value behind the exchanged state. `metric` is read from every
    exchange.
    """

    base: Run
    source: Run
    first: int
    state: str
    window: int
    metric: str
    sever: str | None = None
    memory_gib: float | None = None
    progress: Progress | None = None

    @property
    def n_tokens(self) -> int:
        """Tokens of the prompt."""
        return self.base.packing.lengths[0]

    @property
    def n_layers(self) -> int:
        """Blocks of the model."""
        return self.base.model.n_layers

    def sites(self) -> list[tuple[int, int]]:
        """Every (token, layer) whose exchange can matter, tokens outermost."""
        return [
            (token, layer) for token in range(self.first, self.n_tokens) for layer in range(self.n_layers)
        ]

    def edits(self, token: int, layer: int) -> tuple[Edit, ...]:
        """The exchange at one token and layer, and what is held behind it."""
        component = STATES[self.state]
        layers = exchanged_layers(self.state, layer, self.window, self.n_layers)
        exchange = [Edit(Site(k, component, (token,)), "replace", self.source) for k in layers]
        return (*exchange, *(self._held(token, layer) if self.sever else ()))

    def _held(self, token: int, layer: int) -> Iterator[Edit]:
        """Outputs of the layers above that stay as in the base. Meng et al. 2022, section 2.2 and figure 3."""
        assert self.sever is not None
        for k in range(layer + 1, self.n_layers):
            yield Edit(Site(k, STATES[self.sever], (token,)), "replace", self.base)


@dataclass(frozen=True, eq=False)
class Estimate:
    """The metric with each state exchanged, dims (token, layer, sample), NaN where a sample was not run.

    `exact`, dims (token, layer), is False where the values are no measurement of all samples.
    """

    samples: xr.DataArray
    exact: xr.DataArray


def exchanged_layers(state: str, layer: int, window: int, n_layers: int) -> range:
    """The layers exchanged together: one for `resid`, an interval centred at `layer` for `mlp` and `attn`."""
    if state == "resid":
        return range(layer, layer + 1)
    return range(max(0, layer - window // 2), min(n_layers, layer - window // 2 + window))


def measured(asked: Exchange) -> Estimate:
    """Every exchange run, exactly."""
    variants = [Variant(asked.edits(token, layer)) for token, layer in asked.sites()]
    swept = sweep(asked.base, variants, asked.metric, memory_gib=asked.memory_gib, progress=asked.progress)
    values = swept.values.reshape(-1, asked.n_layers, swept.sizes["prompt"])
    samples = with_untouched(values, base_values(asked.base, asked.metric).numpy(), asked.first)
    return Estimate(samples, xr.ones_like(samples.isel(sample=0, drop=True), dtype=bool))


def with_untouched(values: np.ndarray, untouched: np.ndarray, first: int) -> xr.DataArray:
    """Values from token `first` on, preceded by the base's own: tokens before it are equal in both runs."""
    if first:
        values = np.concatenate([np.broadcast_to(untouched, (first, *values.shape[1:])), values])
    coords = {"token": np.arange(values.shape[0]), "layer": np.arange(values.shape[1])}
    return xr.DataArray(values, dims=("token", "layer", "sample"), coords=coords)
