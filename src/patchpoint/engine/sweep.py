"""The sweep: every variant's metric from one pass up the layers that carries all variants at once.

At block k the state holds the units (variant x prompt) that entered below k, and of each only the tokens from its
first changed one on. Tokens before that reuse the base run's keys and values; nothing of the base is recomputed.
At the last block only final tokens go on. Exact: equal to running every variant by itself, to float rounding.
"""

from collections.abc import Sequence

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from patchpoint.errors import InvalidArgument

from .chunk import final_resid
from .metrics import Answers, Metric, Readout, metric_named
from .plan import chunks_of, units_of
from .run import Run
from .sites import Edit, Variant, as_variant


@torch.no_grad()
def sweep(
    base: Run,
    variants: Sequence[Variant | Edit | Sequence[Edit]],
    metric: str = "prob",
    *,
    memory_gib: float | None = None,
) -> xr.DataArray:
    """The metric at each prompt's final token under each variant of the base run, dims (variant, prompt).

    `metric` is one of METRICS; answers come from the base run's batch. `memory_gib` bounds what the sweep
    allocates (default: half of what is free); results do not depend on it beyond float rounding.
    Raises UnknownName, InvalidArgument or PromptError for variants that do not fit model or prompts.
    """
    read = metric_named(metric)
    answers = _answers(base)
    listed = [as_variant(variant) for variant in variants]
    units = units_of(base, listed)
    values = _measure(base, base.final_resid, answers, read)[None].repeat(len(listed), 1)
    for groups in chunks_of(base, units, memory_gib):
        members = [unit for group in groups for unit in group.units]
        prompts = torch.tensor([unit.prompt for unit in members], device=values.device)
        numbers = torch.tensor([unit.variant for unit in members], device=values.device)
        values[numbers, prompts] = _measure(base, final_resid(base, groups), answers.at(prompts), read)
    return xr.DataArray(
        values.cpu().numpy(),
        dims=("variant", "prompt"),
        coords={"variant": [str(variant) for variant in listed]},
    )


@torch.no_grad()
def base_values(base: Run, metric: str) -> Float[Tensor, " prompt"]:
    """The metric of a run itself, one value per prompt, on the CPU."""
    return _measure(base, base.final_resid, _answers(base), metric_named(metric)).cpu()


def _answers(base: Run) -> Answers:
    batch = base.batch
    if batch.correct is None:
        raise InvalidArgument(
            "the base run's prompts have no answers to score; give them a correct answer each"
        )
    device = base.model.device
    incorrect = None if batch.incorrect is None else torch.tensor(batch.incorrect, device=device)
    return Answers(torch.tensor(batch.correct, device=device), incorrect)


def _measure(
    base: Run, resid: Float[Tensor, "row d_model"], answers: Answers, metric: Metric
) -> Float[Tensor, " row"]:
    adapter = base.model.adapter
    return metric(Readout(adapter, adapter.final(resid)), answers)
