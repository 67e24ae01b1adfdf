"""The sweep: every variant's metric from one pass up the layers that carries all variants at once.

At block k the state holds the units (variant x prompt) that entered below k, and of each only the tokens from its
first changed one on. Tokens before that reuse the base run's keys and values; nothing of the base is recomputed.
At the last block only final tokens go on. Exact: equal to running every variant by itself, to float rounding.
"""

from collections.abc import Callable, Sequence
from typing import Literal, overload

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from patchpoint.errors import EditNotApplied

from .chunk import chunk_final
from .cost import SweepPlan, chunk_flops, plan_of
from .metrics import Asked, LogitsMetric, Metric, Readout, Rows, metric_of
from .plan import Chunks, Unit, chunks_of, units_of
from .row_edits import Ledger
from .run import Run
from .sites import Edit, Variant, as_variant

Variants = Sequence[Variant | Edit | Sequence[Edit]]
Progress = Callable[[int, int], None]
"""Called with floating-point operations done and to do, after every block of every chunk."""


@overload
def sweep(
    base: Run,
    variants: Variants,
    metric: str | LogitsMetric = ...,
    *,
    memory_gib: float | None = ...,
    plan_only: Literal[False] = ...,
    progress: Progress | None = ...,
) -> xr.DataArray: ...
@overload
def sweep(
    base: Run,
    variants: Variants,
    metric: str | LogitsMetric = ...,
    *,
    memory_gib: float | None = ...,
    plan_only: Literal[True],
    progress: Progress | None = ...,
) -> SweepPlan: ...
@torch.no_grad()
def sweep(
    base: Run,
    variants: Variants,
    metric: str | LogitsMetric = "prob",
    *,
    memory_gib: float | None = None,
    plan_only: bool = False,
    progress: Progress | None = None,
) -> xr.DataArray | SweepPlan:
    """The metric at each prompt's final token under each variant of the base run, dims (variant, prompt).

    `metric` is one of METRICS, or a function of the final tokens' logits [row, vocab] and of the number of each
    row's prompt [row] that returns [row]; answers come from the base run's batch. `memory_gib` bounds what the
    sweep allocates (default: half of what is free); results do not depend on it beyond float rounding.
    `plan_only`: do nothing but say what it would take.
    The coordinate `largest_change` tells what each variant did at its sites, as the largest absolute change of
    a number there over all prompts: NaN where none of its sites can reach a final token, so that the value is
    the base's. Raises UnknownName, InvalidArgument or PromptError for variants that do not fit model or
    prompts, EditNotApplied where an edit did not take place.
    """
    read = _at_hand(base, metric_of(metric))
    listed = [as_variant(variant) for variant in variants]
    units = units_of(base, listed)
    chunks = chunks_of(base, units, memory_gib)
    if plan_only:
        return plan_of(base, len(listed), chunks)
    asked = Asked.of(base.batch, Readout(base.model.adapter, base.final))
    prompts = torch.arange(len(base.packing.lengths), device=base.model.device)
    values = read(Rows(asked.base, prompts, asked))[None].repeat(len(listed), 1)
    ledger = Ledger.of(len(listed), base.model.device)
    meters = _meters(base, chunks, progress)
    for groups, meter in zip(chunks.groups, meters, strict=True):
        members = [unit for group in groups for unit in group.units]
        prompts = torch.tensor([unit.prompt for unit in members], device=values.device)
        numbers = torch.tensor([unit.variant for unit in members], device=values.device)
        final = chunk_final(base, groups, ledger, meter)
        values[numbers, prompts] = read(Rows(Readout(base.model.adapter, final), prompts, asked))
    return xr.DataArray(
        values.cpu().numpy(),
        dims=("variant", "prompt"),
        coords={
            "variant": [str(variant) for variant in listed],
            "largest_change": ("variant", _largest_changes(ledger, units, listed)),
        },
    )


def _meters(base: Run, chunks: Chunks, progress: Progress | None) -> list[Callable[[int], None]]:
    """Per chunk, what to call after each of its blocks."""
    if progress is None:
        return [lambda layer: None for _ in chunks.groups]
    flops = [chunk_flops(base, groups) for groups in chunks.groups]
    total = sum(map(sum, flops))
    meters: list[Callable[[int], None]] = []
    for number, blocks in enumerate(flops):
        before = sum(map(sum, flops[:number]))

        def meter(layer: int, before: int = before, blocks: list[int] = blocks) -> None:
            progress(before + sum(blocks[: layer + 1]), total)

        meters.append(meter)
    return meters


def _largest_changes(ledger: Ledger, units: Sequence[Unit], variants: Sequence[Variant]) -> np.ndarray:
    """Per variant the largest change made; EditNotApplied where fewer rows were edited than asked for."""
    asked = np.zeros(len(variants), dtype=np.int64)
    for unit in units:
        asked[unit.variant] += unit.n_edited
    done, largest = ledger.rows.cpu().numpy(), ledger.largest.cpu().numpy()
    if missed := np.flatnonzero(done != asked).tolist():
        names = "; ".join(str(variants[i]) for i in missed[:3])
        raise EditNotApplied(
            f"{len(missed)} of {len(variants)} variants were not made as asked, such as {names}: of "
            f"{asked[missed[0]]} tokens {done[missed[0]]} were edited; run patchpoint models check on this model"
        )
    return np.where(asked == 0, np.nan, largest)


@torch.no_grad()
def base_values(base: Run, metric: str | LogitsMetric) -> Float[Tensor, " prompt"]:
    """The metric of a run itself, one value per prompt, on the CPU."""
    asked = Asked.of(base.batch, Readout(base.model.adapter, base.final))
    prompts = torch.arange(len(base.packing.lengths), device=base.model.device)
    return _at_hand(base, metric_of(metric))(Rows(asked.base, prompts, asked)).cpu()


def _at_hand(base: Run, metric: Metric) -> Metric:
    """A metric that has the unembedding's weights at hand while it reads."""

    def read(rows: Rows) -> Float[Tensor, " row"]:
        with base.model.ends():
            return metric(rows)

    return read
