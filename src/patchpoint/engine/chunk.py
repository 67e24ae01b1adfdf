"""One pass of a chunk's units up the layers, in one buffer of changed tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchpoint.models.families import Rotary

from .edits import Placed, RowEdit, row_edits
from .memory import even_cuts
from .packed import Piece, after_attention, block_step, heads, last_step
from .plan import Group
from .run import Run, tile_rows, whole_prompt_tiles

PREFIX_TILE_BYTES = 2**26
"""Most bytes of keys and values of unchanged tokens gathered for one tile."""

StageEdits = dict[str, list[RowEdit]]


@dataclass(frozen=True, eq=False)
class Slab:
    """Consecutive units of one group inside a tile."""

    group: Group
    first_unit: int
    units: int

    @property
    def state_start(self) -> int:
        """State row of the first unit."""
        return self.group.state_start + self.first_unit * self.group.width

    @property
    def n_rows(self) -> int:
        """State rows of all its units."""
        return self.units * self.group.width


def final_resid(base: Run, groups: Sequence[Group]) -> Float[Tensor, "unit d_model"]:
    """Every unit's stream after the last block at its final token."""
    blocks = base.model.adapter.blocks
    last, like = groups[-1], base.resid[0]
    state = like.new_empty((last.state_start + len(last.units) * last.width, like.shape[1]))
    final = like.new_empty((last.unit_start + len(last.units), like.shape[1]))
    _enter(base, groups, -1, state)
    for layer in range(len(blocks) - 1):
        edits = _edits_at_work(base, groups, layer)
        for slabs in _tiles(base, groups, layer):
            _step(base, layer, slabs, state, edits)
        _enter(base, groups, layer, state)
    layer, block = len(blocks) - 1, blocks[-1]
    edits = _edits_at_work(base, groups, layer)
    for slabs in _tiles(base, groups, layer):
        rotary, pieces = _angles(base, slabs), _pieces(base, layer, slabs)
        starts = _slab_starts([slab.units for slab in slabs])

        def visit(
            component: str, rows: Tensor, slabs: list[Slab] = slabs, starts: list[int] = starts
        ) -> None:
            for edit in edits.get(component, ()):
                for slab, start in zip(slabs, starts, strict=True):
                    edit.apply(rows, slab.group.unit_start + slab.first_unit, slab.units, start)

        done = last_step(block, _gathered(state, slabs), rotary, pieces, visit)
        for slab, start in zip(slabs, starts, strict=True):
            unit = slab.group.unit_start + slab.first_unit
            final[unit : unit + slab.units] = done[start : start + slab.units]
    _enter(base, groups, layer, final)
    return final


def _step(base: Run, layer: int, slabs: list[Slab], state: Tensor, edits: StageEdits) -> None:
    """One tile through one block, in place on the state."""
    starts = _slab_starts([slab.n_rows for slab in slabs])

    def visit(component: str, rows: Tensor) -> None:
        for edit in edits.get(component, ()):
            for slab, start in zip(slabs, starts, strict=True):
                edit.apply(rows, slab.state_start, slab.n_rows, start)

    resid = _gathered(state, slabs)
    block_step(
        base.model.adapter.blocks[layer], resid, _angles(base, slabs), _pieces(base, layer, slabs), visit
    )
    if len(slabs) > 1:
        for slab, start in zip(slabs, starts, strict=True):
            state[slab.state_start : slab.state_start + slab.n_rows] = resid[start : start + slab.n_rows]


def _slab_starts(sizes: list[int]) -> list[int]:
    starts, at = [], 0
    for size in sizes:
        starts.append(at)
        at += size
    return starts


def _gathered(state: Tensor, slabs: list[Slab]) -> Tensor:
    """The tile's rows: a view of the state for one slab, a copy for several."""
    parts = [state[slab.state_start : slab.state_start + slab.n_rows] for slab in slabs]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _tiles(base: Run, groups: Sequence[Group], layer: int) -> list[list[Slab]]:
    """The units at work in a block, cut into tiles of about equal row counts."""
    block = base.model.adapter.blocks[layer]
    most = tile_rows(base.model.device)
    key_bytes = 2 * block.n_kv_heads * block.d_head * base.model.dtype.itemsize
    members = [(group, index) for group in groups for index in range(group.entered_before(layer))]
    if not members:
        return []
    costs = [max(g.width, g.n_tokens * key_bytes * most // PREFIX_TILE_BYTES) for g, _ in members]
    tiles, first = [], 0
    for end in even_cuts(costs, most):
        slabs: list[Slab] = []
        for group, index in members[first:end]:
            if slabs and slabs[-1].group is group:
                slabs[-1] = Slab(group, slabs[-1].first_unit, slabs[-1].units + 1)
            else:
                slabs.append(Slab(group, index, 1))
        tiles.append(slabs)
        first = end
    return tiles


def _pieces(base: Run, layer: int, slabs: list[Slab]) -> list[Piece]:
    pieces, start = [], 0
    for slab in slabs:
        k = v = None
        if slab.group.first:
            rows = _base_rows(base, slab, 0, slab.group.first)
            k, v = base.kept["k"][layer][rows], base.kept["v"][layer][rows]
        pieces.append(Piece(start, slab.units, slab.group.width, k, v))
        start += slab.n_rows
    return pieces


def _angles(base: Run, slabs: list[Slab]) -> Rotary | None:
    if base.rotary is None:
        return None
    rows = [_base_rows(base, slab, slab.group.first, slab.group.n_tokens).flatten() for slab in slabs]
    return base.rotary.at(torch.cat(rows))


def _base_rows(base: Run, slab: Slab, first: int, stop: int) -> Int[Tensor, "unit token"]:
    """The base run's rows of each unit's tokens first ... stop - 1."""
    units = slab.group.units[slab.first_unit : slab.first_unit + slab.units]
    offsets = torch.tensor([base.packing.offsets[unit.prompt] for unit in units])
    rows = offsets[:, None] + torch.arange(first, stop)
    return rows.to(base.resid[0].device)


def _edits_at_work(base: Run, groups: Sequence[Group], layer: int) -> StageEdits:
    """Edits in this block of units that entered below it."""
    found = []
    for group in groups:
        for index in range(group.entered_before(layer)):
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
        taken = base.resid[layer + 1][
            _base_rows(base, slab, group.n_tokens - 1 if last else group.first, group.n_tokens).flatten()
        ]
        start = group.unit_start + first if last else slab.state_start
        rows[start : start + len(taken)] = taken
        for index in range(first, end):
            entering += _placed(base, group, index, layer)
    inside = [item for item in entering if item[0].stage != "resid_post"]
    if inside:
        _enter_inside(base, layer, rows, inside)
    for edit in row_edits(base.model, [item for item in entering if item[0].stage == "resid_post"]).get(
        "resid_post", ()
    ):
        edit.apply(rows, 0, len(rows), 0)


def _enter_inside(base: Run, layer: int, rows: Tensor, changes: list[Placed]) -> None:
    """Recompute the changed tokens alone from the point in the block where they change.

    Other tokens cannot see the change before the next block's attention.
    """
    places = sorted(
        {
            (row, base.packing.offsets[c.prompt] + p)
            for c, _, at in changes
            for row, p in zip(at, c.positions, strict=True)
        }
    )
    compact = {row: number for number, (row, _) in enumerate(places)}
    source = torch.tensor([base_row for _, base_row in places], device=rows.device)
    edits = row_edits(base.model, [(c, order, [compact[row] for row in at]) for c, order, at in changes])

    def visit(component: str, values: Tensor) -> None:
        for edit in edits.get(component, ()):
            edit.apply(values, 0, len(values), 0)

    if layer < 0:
        ids, positions = base.ids[source], base.positions[source]
        embed = base.model.adapter.embed(ids)
        visit("embed", embed)
        resid = base.model.adapter.resid_pre(embed, positions)
    else:
        resid = base.resid[layer][source]
        after_attention(base.model.adapter.blocks[layer], resid, _base_z(base, layer)[source], visit)
    rows[torch.tensor([row for row, _ in places], device=rows.device)] = resid


def _base_z(base: Run, layer: int) -> Float[Tensor, "row head d_head"]:
    """The base run's `z`, kept or computed again."""
    if "z" in base.kept:
        return base.kept["z"][layer]
    block = base.model.adapter.blocks[layer]
    parts = []
    for tile in whole_prompt_tiles(base.packing, tile_rows(base.model.device)):
        angles = None if base.rotary is None else base.rotary.between(tile.start, tile.stop)
        resid = base.resid[layer][tile.start : tile.stop]
        parts.append(heads(block, resid, angles, tile.pieces, lambda component, rows: None))
    return torch.cat(parts)
