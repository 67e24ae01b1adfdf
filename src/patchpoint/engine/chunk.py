"""One pass of a chunk's units up the layers, in one buffer of changed tokens."""

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from patchpoint.models.families import Block

from .edits import Placed, RowEdit, apply_to_all, row_edits
from .packed import Projections, Visit, after_attention, block_step, final_rows, last_step, mixed_heads
from .plan import Group
from .run import Run, base_tiles
from .tiles import Slab, SlabTile, angles_at, base_rows, own_base_rows, pieces_of, slab_tiles

StageEdits = dict[str, list[RowEdit]]


def final_resid(base: Run, groups: Sequence[Group]) -> Float[Tensor, "unit d_model"]:
    """Every unit's stream after the last block at its final token."""
    last_layer = base.model.n_layers - 1
    last, like = groups[-1], base.resid[0]
    state = like.new_empty((last.state_start + len(last.units) * last.width, like.shape[1]))
    final = like.new_empty((last.unit_start + len(last.units), like.shape[1]))
    _enter(base, groups, -1, state)
    for layer in range(last_layer + 1):
        edits = _edits_at_work(base, groups, layer)
        tiles = slab_tiles(base, groups, layer)
        base_q = _base_q(base, layer) if any(tile.fresh for tile in tiles) else None
        for tile in tiles:
            if layer < last_layer:
                _step(base, layer, tile, state, base_q, edits)
            else:
                _last_step(base, tile, state, final, base_q, edits)
        _enter(base, groups, layer, state if layer < last_layer else final)
    return final


def _step(
    base: Run, layer: int, tile: SlabTile, state: Tensor, base_q: Tensor | None, edits: StageEdits
) -> None:
    """One tile through one block, in place on the state."""
    resid = tile.gathered(state)
    qkv = _projections(base, layer, tile, resid, base_q)
    block = base.model.adapter.blocks[layer]
    block_step(block, resid, qkv, pieces_of(base, layer, tile), _state_visit(tile, edits))
    tile.put_back(resid, state)


def _last_step(
    base: Run, tile: SlabTile, state: Tensor, final: Tensor, base_q: Tensor | None, edits: StageEdits
) -> None:
    """One tile through the last block; only its units' final tokens are written, to `final`."""
    layer = base.model.n_layers - 1
    block, pieces = base.model.adapter.blocks[layer], pieces_of(base, layer, tile)
    resid = tile.gathered(state)
    finals = final_rows(pieces, resid.device)
    if tile.fresh:
        q, k, v = _projections(base, layer, tile, resid, base_q)
        q = q[finals]
    else:
        attn_in, rows = block.attn_in(resid), own_base_rows(base, tile)
        q = block.q(attn_in[finals], angles_at(base, rows[finals]))
        k, v = block.kv(attn_in, angles_at(base, rows))
    done = last_step(block, resid[finals], q, (k, v), pieces, _final_visit(tile, edits))
    for slab, start in zip(tile.slabs, tile.unit_starts, strict=True):
        final[slab.unit_start : slab.unit_start + slab.n_units] = done[start : start + slab.n_units]


def _state_visit(tile: SlabTile, edits: StageEdits) -> Visit:
    def visit(component: str, rows: Tensor) -> None:
        for edit in edits.get(component, ()):
            for slab, start in zip(tile.slabs, tile.row_starts, strict=True):
                edit.apply(rows, slab.state_start, slab.n_rows, start)

    return visit


def _final_visit(tile: SlabTile, edits: StageEdits) -> Visit:
    """As `_state_visit`, for the last block's one row per unit."""

    def visit(component: str, rows: Tensor) -> None:
        for edit in edits.get(component, ()):
            for slab, start in zip(tile.slabs, tile.unit_starts, strict=True):
                edit.apply(rows, slab.unit_start, slab.n_units, start)

    return visit


def _projections(base: Run, layer: int, tile: SlabTile, resid: Tensor, base_q: Tensor | None) -> Projections:
    """Queries, keys and values of the tile's rows; those of tokens still equal to the base are the base's."""
    block, rows = base.model.adapter.blocks[layer], own_base_rows(base, tile)
    if not tile.fresh or base_q is None:
        return block.qkv(block.attn_in(resid), angles_at(base, rows))
    q, k, v = base_q[rows], base.kept["k"][layer][rows], base.kept["v"][layer][rows]
    changed = torch.tensor(tile.changed_rows(), device=resid.device)
    new = block.qkv(block.attn_in(resid[changed]), angles_at(base, rows[changed]))
    for projection, mine in zip((q, k, v), new, strict=True):
        projection[changed] = mine
    return q, k, v


def _edits_at_work(base: Run, groups: Sequence[Group], layer: int) -> StageEdits:
    """Edits in this block of units that entered below it."""
    found = []
    for group in groups:
        for index in group.edited_above_entry.get(layer, ()):
            found += _placed(base, group, index, layer)
    return row_edits(base.model, found)


def _placed(base: Run, group: Group, index: int, layer: int) -> list[Placed]:
    """A unit's changes in one block, in order, with their rows: of the state; behind the last block its one row."""
    changes = [change for change in group.units[index].changes if change.layer == layer]
    if layer == base.model.n_layers - 1:
        return [(change, order, [group.unit_start + index]) for order, change in enumerate(changes)]
    return [
        (change, order, group.state_rows(index, change.positions)) for order, change in enumerate(changes)
    ]


def _enter(base: Run, groups: Sequence[Group], layer: int, rows: Tensor) -> None:
    """Units that first differ in this block: the base's stream behind it, then their own changed tokens."""
    entering: list[Placed] = []
    last = layer == base.model.n_layers - 1
    for group in groups:
        first, end = group.entered_before(layer), group.entered_before(layer + 1)
        if first == end:
            continue
        slab = Slab(group, first, end - first)
        from_token = group.n_tokens - 1 if last else group.first
        taken = base.resid[layer + 1][base_rows(base, slab, from_token, group.n_tokens).flatten()]
        start = slab.unit_start if last else slab.state_start
        rows[start : start + len(taken)] = taken
        for index in range(first, end):
            entering += _placed(base, group, index, layer)
    inside = [item for item in entering if item[0].stage != "resid_post"]
    if inside:
        _enter_inside(base, layer, rows, inside)
    behind = [item for item in entering if item[0].stage == "resid_post"]
    apply_to_all(row_edits(base.model, behind), "resid_post", rows)


def _enter_inside(base: Run, layer: int, rows: Tensor, changes: list[Placed]) -> None:
    """Recompute the changed tokens alone from the point in the block where they change.

    Other tokens cannot see the change before the next block's attention.
    """
    places = sorted(
        {
            (row, base.packing.offsets[change.prompt] + position)
            for change, _, at in changes
            for row, position in zip(at, change.positions, strict=True)
        }
    )
    compact = {row: number for number, (row, _) in enumerate(places)}
    source = torch.tensor([base_row for _, base_row in places], device=rows.device)
    edits = row_edits(base.model, [(c, order, [compact[row] for row in at]) for c, order, at in changes])

    if layer < 0:
        embed = base.model.adapter.embed(base.ids[source])
        apply_to_all(edits, "embed", embed)
        resid = base.model.adapter.resid_pre(embed, base.positions[source])
    else:
        resid = base.resid[layer][source]
        after_attention(
            base.model.adapter.blocks[layer],
            resid,
            _base_z(base, layer)[source],
            partial(apply_to_all, edits),
        )
    rows[torch.tensor([row for row, _ in places], device=rows.device)] = resid


def _base_q(base: Run, layer: int) -> Float[Tensor, "row head d_head"]:
    """The base run's queries, computed again: runs keep keys and values only."""
    block = base.model.adapter.blocks[layer]
    return torch.cat([_base_projections(base, block, layer, t.start, t.stop)[0] for t in base_tiles(base)])


def _base_z(base: Run, layer: int) -> Float[Tensor, "row head d_head"]:
    """The base run's `z` before any edit of its own, kept or computed again."""
    edited = any(edit.site.component == "z" and edit.site.layer == layer for edit in base.edits)
    if "z" in base.kept and not edited:
        return base.kept["z"][layer]
    block = base.model.adapter.blocks[layer]
    return torch.cat(
        [
            mixed_heads(block, _base_projections(base, block, layer, tile.start, tile.stop), tile.pieces)
            for tile in base_tiles(base)
        ]
    )


def _base_projections(base: Run, block: Block, layer: int, start: int, stop: int) -> Projections:
    angles = None if base.rotary is None else base.rotary.between(start, stop)
    return block.qkv(block.attn_in(base.resid[layer][start:stop]), angles)
