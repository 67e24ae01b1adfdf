"""Runs cut into runs of some of their prompts, and runs whose embeddings lie between those of two others."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from patchpoint.engine.batch import Batch, Packing
from patchpoint.engine.sites import Edit, Site
from patchpoint.engine.sources import Source
from patchpoint.errors import PromptError

if TYPE_CHECKING:
    from patchpoint.engine.run import Run


def rows_of(run: "Run", first: int, end: int) -> slice:
    """Packed rows of prompts number `first` to `end` - 1 in packed order."""
    prompts = run.packing.order[first:end]
    start = run.packing.offsets[prompts[0]]
    return slice(start, start + sum(run.packing.lengths[prompt] for prompt in prompts))


def part_of(run: "Run", first: int, end: int) -> "Run":
    """The run of prompts number `first` to `end` - 1 in packed order, without what else was kept.

    It has no edits of its own: only for runs whose edits act below block 0, where `resid` shows all they did.
    """
    prompts, rows, batch = run.packing.order[first:end], rows_of(run, first, end), run.batch

    def chosen(values: Sequence[int] | None) -> tuple[int, ...] | None:
        return None if values is None else tuple(values[prompt] for prompt in prompts)

    return replace(
        run,
        batch=Batch(
            tuple(batch.tokens[prompt] for prompt in prompts), chosen(batch.correct), chosen(batch.incorrect)
        ),
        packing=Packing(tuple(run.packing.lengths[prompt] for prompt in prompts)),
        ids=run.ids[rows],
        positions=run.positions[rows],
        rotary=None if run.rotary is None else run.rotary.between(rows.start, rows.stop),
        resid=tuple(resid[rows] for resid in run.resid),
        kept={},
        edits=(),
    )


@dataclass(frozen=True, eq=False)
class Rows(Source):
    """A stream given row by row, packed as the run that reads it is."""

    packing: Packing
    stream: Float[Tensor, "row d_model"]

    def check(self, site: Site, prompt: int, lengths: Sequence[int]) -> None:
        """PromptError for prompts of other lengths."""
        if tuple(lengths) != self.packing.lengths:
            raise PromptError(
                f"the stream is of prompts of {self.packing.lengths} tokens, got {tuple(lengths)}"
            )

    def rows(self, component: str, layer: int, prompts: Sequence[int], positions: Sequence[int]) -> Tensor:
        """The stream at these places."""
        at = [self.packing.offsets[i] + p for i, p in zip(prompts, positions, strict=True)]
        return self.stream[torch.tensor(at, device=self.stream.device)]


def run_between(start: "Run", end: "Run", share: float, memory_gib: float | None = None) -> "Run":
    """The prompts of `end` from a stream before block 0 that is `share` of the way from `start`'s to its own."""
    there, here = end.resid[0], start.resid[0]
    wide = torch.promote_types(there.dtype, torch.float32)
    stream = torch.lerp(here.to(wide), there.to(wide), share).to(there.dtype)
    edit = Edit(Site(0, "resid_pre"), "replace", Rows(end.packing, stream))
    return end.model.run(end.batch, edits=(edit,), keep=(), memory_gib=memory_gib)
