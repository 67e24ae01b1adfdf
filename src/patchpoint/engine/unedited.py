"""What the base run computed inside a block before its own edits there, kept or computed again."""

import torch
from jaxtyping import Float
from torch import Tensor

from patchpoint.models.families import Rotary

from .edits import BEFORE_MIXING
from .layer_pass import through_block
from .packed import Projections
from .run import Run


def projections_of(base: Run, layer: int) -> Projections:
    """The base run's queries, keys and values of all its rows, before any edit of its own in this block."""
    block, edited = base.model.adapter.blocks[layer], base.own_stages(layer)
    if edited.isdisjoint(BEFORE_MIXING):
        if "q" in base.kept:
            return base.kept["q"][layer], base.kept["k"][layer], base.kept["v"][layer]
        q = torch.cat([block.q(*_attn_in(base, layer, t.start, t.stop)) for t in base.tiles])
        return q, base.kept["k"][layer], base.kept["v"][layer]
    parts = [block.qkv(*_attn_in(base, layer, tile.start, tile.stop)) for tile in base.tiles]
    q, k, v = (torch.cat(part) for part in zip(*parts, strict=True))
    return q, k, v


def z_of(base: Run, layer: int) -> Float[Tensor, "row head d_head"]:
    """The base run's `z` of all its rows, before any edit of `z` of its own."""
    if "z" in base.kept and "z" not in base.own_stages(layer):
        return base.kept["z"][layer]
    edits = {stage: e for stage, e in base.own_edits(layer).items() if stage in BEFORE_MIXING}
    block, stream = base.model.adapter.blocks[layer], base.resid[layer].clone()
    return through_block(block, stream, base.rotary, base.tiles, edits, ("z",))["z"]


def _attn_in(base: Run, layer: int, start: int, stop: int) -> tuple[Tensor, Rotary | None]:
    angles = None if base.rotary is None else base.rotary.between(start, stop)
    return base.model.adapter.blocks[layer].attn_in(base.resid[layer][start:stop]), angles
