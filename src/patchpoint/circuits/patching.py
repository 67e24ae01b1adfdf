"""Activation patching: what one head, or one layer at one token, carries of the difference between twins.

Vig et al. 2020, "Investigating gender bias in language models using causal mediation analysis"; Wang et al. 2022,
"Interpretability in the wild", section 3.
"""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from patchpoint.engine import Model, Site
from patchpoint.engine.sites import KV_HEADS, PER_HEAD
from patchpoint.engine.sweep import Progress
from patchpoint.errors import PromptError, UnknownName
from patchpoint.tasks.prompts import Prompts

from .exchange import Exchanged, Metric, exchange, name_of
from .pairs import Part, Positions

PER_LAYER = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_in", "mlp_post", "mlp_out")
"""Components that a layer has once per token."""


def patch_heads(
    model: Model,
    prompts: Prompts,
    component: str = "z",
    *,
    positions: Positions = None,
    metric: Metric = "logit_diff",
    direction: str = "corrupt",
    memory_gib: float | None = None,
    progress: Progress | None = None,
) -> xr.DataArray:
    """The metric with one head's activations taken from the corrupted twin, mean over prompts, dims (layer, head).

    `component`: z, q, k, v (k and v have the key/value heads), pattern, q_input, k_input or v_input, exchanged at
    `positions`: every token (None), a role of `prompts.spans`, or token positions. `direction`: "corrupt" puts
    corrupted activations into the clean run, "restore" clean ones into the corrupted run. `memory_gib` bounds
    what all of it allocates (default: half of what is free).
    Attributes `clean` and `corrupt` are the metric's means without any patch; the coordinate `largest_change` is
    the largest change of a number at each head, NaN where the twins cannot differ.
    Raises UnknownName, InvalidArgument or PromptError.
    """
    return mean_over_prompts(
        patch_heads_by_prompt(
            model,
            prompts,
            component,
            positions=positions,
            metric=metric,
            direction=direction,
            memory_gib=memory_gib,
            progress=progress,
        )
    )


def patch_heads_by_prompt(
    model: Model,
    prompts: Prompts,
    component: str = "z",
    *,
    positions: Positions = None,
    metric: Metric = "logit_diff",
    direction: str = "corrupt",
    memory_gib: float | None = None,
    progress: Progress | None = None,
) -> xr.DataArray:
    """As `patch_heads` prompt by prompt, dims (layer, head, prompt), coordinates clean and corrupt (prompt)."""
    if component not in PER_HEAD:
        raise UnknownName("component of heads", component, PER_HEAD)
    block = model.adapter.blocks[0]
    shape = (model.n_layers, block.n_kv_heads if component in KV_HEADS else block.n_heads)

    def sites(part: Part) -> Mapping[tuple[int, ...], Site]:
        cells = np.ndindex(shape) if part.positions else ()
        return {cell: Site(cell[0], component, part.positions, head=cell[1]) for cell in cells}

    done = exchange(
        model,
        prompts,
        sites,
        shape,
        positions=positions,
        metric=metric,
        direction=direction,
        memory_gib=memory_gib,
        progress=progress,
    )
    return _labelled(done, ("layer", "head"), model, component, metric, direction)


def patch_components(
    model: Model,
    prompts: Prompts,
    component: str = "resid_pre",
    *,
    positions: Positions = None,
    metric: Metric = "logit_diff",
    direction: str = "corrupt",
    memory_gib: float | None = None,
    progress: Progress | None = None,
) -> xr.DataArray:
    """The metric with one layer's state at one token taken from the corrupted twin, dims (layer, token).

    `component`: resid_pre, resid_mid, resid_post, attn_out, mlp_in, mlp_post or mlp_out. Prompts are of one
    length (PromptError otherwise). At tokens that are not among `positions`, and at those before the twins
    differ, nothing is exchanged. All else as in `patch_heads`.
    """
    return mean_over_prompts(
        patch_components_by_prompt(
            model,
            prompts,
            component,
            positions=positions,
            metric=metric,
            direction=direction,
            memory_gib=memory_gib,
            progress=progress,
        )
    )


def patch_components_by_prompt(
    model: Model,
    prompts: Prompts,
    component: str = "resid_pre",
    *,
    positions: Positions = None,
    metric: Metric = "logit_diff",
    direction: str = "corrupt",
    memory_gib: float | None = None,
    progress: Progress | None = None,
) -> xr.DataArray:
    """As `patch_components` prompt by prompt, dims (layer, token, prompt), coordinates clean, corrupt (prompt)."""
    if component not in PER_LAYER:
        raise UnknownName("component of layers", component, PER_LAYER)
    lengths = sorted({len(ids) for ids in prompts.clean.tokens})
    if len(lengths) > 1:
        raise PromptError(
            f"a value per token needs prompts of one length, got {lengths[0]} to {lengths[-1]} tokens; give the "
            "prompts of one length at a time"
        )
    n_tokens = lengths[0]

    def sites(part: Part) -> Mapping[tuple[int, ...], Site]:
        return {
            (layer, n_tokens + p): Site(layer, component, p)
            for layer in range(model.n_layers)
            for p in part.positions
        }

    done = exchange(
        model,
        prompts,
        sites,
        (model.n_layers, n_tokens),
        positions=positions,
        metric=metric,
        direction=direction,
        memory_gib=memory_gib,
        progress=progress,
    )
    return _labelled(done, ("layer", "token"), model, component, metric, direction)


def _labelled(
    done: Exchanged, cells: tuple[str, str], model: Model, component: str, metric: Metric, direction: str
) -> xr.DataArray:
    clean, corrupt = (done.base, done.source) if direction == "corrupt" else (done.source, done.base)
    sizes = dict(zip((*cells, "prompt"), done.values.shape, strict=True))
    return xr.DataArray(
        done.values,
        dims=tuple(sizes),
        coords={
            **{dim: np.arange(size) for dim, size in sizes.items()},
            "clean": ("prompt", clean),
            "corrupt": ("prompt", corrupt),
            "largest_change": (cells, done.largest_change),
        },
        attrs={
            "model": model.name,
            "component": component,
            "metric": name_of(metric),
            "direction": direction,
        },
        name=component,
    )


def mean_over_prompts(by_prompt: xr.DataArray) -> xr.DataArray:
    """The mean over prompts; values that each prompt has once become attributes, as means too."""
    ends = {
        str(name): float(values.mean())
        for name, values in by_prompt.coords.items()
        if values.dims == ("prompt",) and name != "prompt"
    }
    return by_prompt.mean("prompt", keep_attrs=True).assign_attrs(ends)
