"""One pass of a chunk's units up the layers, in one buffer of changed tokens."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchpoint.models.families import Block, Rotary

from .edits import READ_BY_LATER_TOKENS
from .entering import enter
from .packed import Projections, block_step, edited_kv, edited_q, final_rows, last_step
from .placing import edits_at_work, final_edits
from .plan import Group
from .row_edits import Ledger, StageEdits, visit_all, visit_slabs
from .run import Run
from .tiles import SlabTile, angles_at, own_base_rows, pieces_of, slab_tiles
from .unedited import projections_of

Progress = Callable[[int], None]
"""Called with the number of the block that is done."""


def chunk_final(
    base: Run, groups: Sequence[Group], ledger: Ledger, progress: Progress
) -> Float[Tensor, "unit d_final"]:
    """What the unembedding reads at every unit's final token."""
    last, like = groups[-1], base.resid[0]
    state = like.new_empty((last.state_start + len(last.units) * last.width, like.shape[1]))
    final = like.new_empty((last.unit_start + len(last.units), like.shape[1]))
    enter(base, groups, -1, state, ledger)
    for layer in range(base.model.n_layers):
        with base.model.block(layer):
            _through_block(base, groups, layer, state, final, ledger)
        progress(layer)
    with base.model.ends() as adapter:
        normed = adapter.final(final)
    visit_all(final_edits(base, groups, ledger))("final", normed)
    return normed


def _through_block(
    base: Run, groups: Sequence[Group], layer: int, state: Tensor, final: Tensor, ledger: Ledger
) -> None:
    """All units at work through one block, and those that enter behind it into the state or the final rows."""
    last = layer == base.model.n_layers - 1
    edits = edits_at_work(base, groups, layer, ledger)
    tiles = slab_tiles(base, groups, layer)
    unchanged = projections_of(base, layer) if any(tile.fresh for tile in tiles) else None
    for tile in tiles:
        if last:
            _last_step(base, tile, state, final, unchanged, edits)
        else:
            _step(base, layer, tile, state, unchanged, edits)
    enter(base, groups, layer, final if last else state, ledger)


def _step(
    base: Run,
    layer: int,
    tile: SlabTile,
    state: Tensor,
    unchanged: Projections | None,
    edits: StageEdits,
) -> None:
    """One tile through one block, in place on the state."""
    resid, rows = tile.gathered(state), own_base_rows(base, tile)
    block, angles = base.model.adapter.blocks[layer], angles_at(base, rows)
    qkv = _projections(block, tile, resid, rows, angles, unchanged)
    block_step(block, resid, qkv, angles, pieces_of(base, layer, tile), visit_slabs(edits, tile.by_row))
    tile.put_back(resid, state)


def _last_step(
    base: Run,
    tile: SlabTile,
    state: Tensor,
    final: Tensor,
    unchanged: Projections | None,
    edits: StageEdits,
) -> None:
    """One tile through the last block; only its units' final tokens are written, to `final`."""
    layer = base.model.n_layers - 1
    block, pieces = base.model.adapter.blocks[layer], pieces_of(base, layer, tile)
    resid, rows = tile.gathered(state), own_base_rows(base, tile)
    finals = final_rows(pieces, resid.device)
    angles, final_angles = angles_at(base, rows), angles_at(base, rows[finals])
    if tile.fresh:
        q, k, v = _projections(block, tile, resid, rows, angles, unchanged)
        q = q[finals]
    else:
        attn_in = block.attn_in(resid)
        q = block.q(attn_in[finals], final_angles)
        k, v = block.kv(attn_in, angles)
    of_all = visit_slabs({s: e for s, e in edits.items() if s in READ_BY_LATER_TOKENS}, tile.by_row)
    of_final = visit_slabs({s: e for s, e in edits.items() if s not in READ_BY_LATER_TOKENS}, tile.by_unit)
    last = resid[finals]
    q = edited_q(block, last, q, final_angles, of_final)
    kv = edited_kv(block, resid, (k, v), angles, of_all)
    done = last_step(block, last, q, kv, pieces, of_final)
    for slab, start in zip(tile.slabs, tile.unit_starts, strict=True):
        final[slab.unit_start : slab.unit_start + slab.n_units] = done[start : start + slab.n_units]


def _projections(
    block: Block,
    tile: SlabTile,
    resid: Tensor,
    rows: Int[Tensor, " row"],
    angles: Rotary | None,
    unchanged: Projections | None,
) -> Projections:
    """Queries, keys and values of the tile's rows; those of tokens still equal to the base are the base's `rows`."""
    changed = tile.changed_rows() if tile.fresh else range(len(resid))
    if unchanged is None or len(changed) == len(resid):
        return block.qkv(block.attn_in(resid), angles)
    q, k, v = (projection[rows] for projection in unchanged)
    if changed:
        at = torch.tensor(changed, device=resid.device)
        new = block.qkv(block.attn_in(resid[at]), None if angles is None else angles.at(at))
        for projection, mine in zip((q, k, v), new, strict=True):
            projection[at] = mine
    return q, k, v
