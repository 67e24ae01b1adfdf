"""The whole heatmap from one backward pass: what each exchange would do to first order.

An exchange's estimate is metric(base) + (the source's state - the base's state) . d metric / d state, the gradient
taken in the base run (attribution patching: Nanda 2023, "Attribution patching: activation patching at industrial
scale"). Exact only where the metric is linear in what is exchanged.

Over a window of layers the contributions of its layers are added up. Each counts what it does through the layers
above, among them those of the window, which an exact exchange overwrites.
"""

from itertools import groupby

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from patchpoint.engine.gradients import final_gradient, layer_gradients
from patchpoint.engine.sweep import base_values
from patchpoint.errors import InvalidArgument

from .exchange import STATES, Estimate, Exchange, exchanged_layers, with_untouched

GRADIENTS = {"resid": "mlp_out", "mlp": "mlp_out", "attn": "attn_out"}
"""By state, the field of LayerGradients that holds its gradient; what the MLP adds and the stream share one."""


@torch.no_grad()
def attributed(asked: Exchange) -> Estimate:
    """The metric with each state exchanged, to first order, per sample and in units of the metric.

    Tokens before `asked.first` keep the base's value, exactly; everything else is an estimate. `asked.progress`
    is called with the rows of blocks gone down and their number. Raises InvalidArgument for a
    severed exchange and for metrics without a gradient in the base run, and where a prompt does not fit the memory.
    """
    check_offered(asked, "attribution")
    if asked.metric == "kl":
        raise InvalidArgument(
            "kl to the run itself has gradient 0 there, so attribution finds nothing; use method exact or screen"
        )
    alone = _layer_changes(asked)
    together = torch.stack(
        [
            alone[..., list(exchanged_layers(asked.state, layer, asked.window, asked.n_layers))].sum(-1)
            for layer in range(asked.n_layers)
        ],
        dim=-1,
    )
    untouched = base_values(asked.base, asked.metric).numpy()
    values = untouched + together.permute(1, 2, 0)[asked.first :].cpu().numpy()
    samples = with_untouched(values, untouched, asked.first)
    exact = xr.zeros_like(samples.isel(sample=0, drop=True), dtype=bool)
    exact[: asked.first] = True
    return Estimate(samples, exact)


def check_offered(asked: Exchange, method: str) -> None:
    """InvalidArgument for a severed exchange, which is measured exactly or not at all."""
    if asked.sever is not None:
        raise InvalidArgument(
            f"sever={asked.sever!r} is not offered with method {method}; use method exact, or leave sever out"
        )


def _layer_changes(asked: Exchange) -> Float[Tensor, "sample token layer"]:
    """First-order change of the metric by the exchange of each single layer."""
    base = asked.base
    n_rows, shape = base.packing.n_rows, (len(base.packing.lengths), asked.n_tokens, asked.n_layers)
    gradients = layer_gradients(base, final_gradient(base, asked.metric), memory_gib=asked.memory_gib)
    columns, done = [], 0
    for layer, tiles in groupby(gradients, key=lambda found: found.layer):
        difference, parts = _difference(asked, layer), []
        for found in tiles:
            parts.append((difference[found.rows] * getattr(found, GRADIENTS[asked.state])).sum(-1))
            done += len(parts[-1])
            if asked.progress is not None:
                asked.progress(done, n_rows * asked.n_layers)
        columns.append(torch.cat(parts))
    return torch.stack(columns[::-1], dim=-1).reshape(shape)


def _difference(asked: Exchange, layer: int) -> Float[Tensor, "row d_model"]:
    """The source's state minus the base's in one layer, on all rows of the base."""
    new, old = (run.rows(STATES[asked.state], layer) for run in (asked.source, asked.base))
    wide = torch.promote_types(old.dtype, torch.float32)
    if len(asked.source.packing.lengths) == 1:
        new = new.repeat(len(asked.base.packing.lengths), 1)
    return new.to(wide) - old.to(wide)
