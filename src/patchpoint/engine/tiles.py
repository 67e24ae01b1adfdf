"""Which units go through a block together, and the base run's rows that they need beside their own."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Int
from torch import Tensor

from patchpoint.models.families import Rotary

from .attention import Piece
from .plan import PREFIX_TILE_BYTES, Group
from .prompt_tiles import tile_rows
from .run import Run


@dataclass(frozen=True, eq=False)
class Slab:
    """Consecutive units of one group."""

    group: Group
    first_unit: int
    n_units: int

    @property
    def state_start(self) -> int:
        """State row of the first unit."""
        return self.group.state_start + self.first_unit * self.group.width

    @property
    def unit_start(self) -> int:
        """Number of the first unit among the chunk's."""
        return self.group.unit_start + self.first_unit

    @property
    def n_rows(self) -> int:
        """State rows of all its units."""
        return self.n_units * self.group.width


@dataclass(frozen=True, eq=False)
class SlabTile:
    """Slabs that go through a block together.

    `fresh`: all its units entered behind the block just below, so that but for the tokens edited there their
    streams are still the base's.
    """

    slabs: list[Slab]
    fresh: bool

    @property
    def row_starts(self) -> list[int]:
        """Each slab's first row in the tile."""
        return [0, *accumulate(slab.n_rows for slab in self.slabs)][:-1]

    @property
    def unit_starts(self) -> list[int]:
        """Each slab's first unit in the tile."""
        return [0, *accumulate(slab.n_units for slab in self.slabs)][:-1]

    @property
    def by_row(self) -> list[tuple[int, int, int]]:
        """Of each slab: its first state row, its number of rows, its first row in the tile."""
        return [
            (slab.state_start, slab.n_rows, start)
            for slab, start in zip(self.slabs, self.row_starts, strict=True)
        ]

    @property
    def by_unit(self) -> list[tuple[int, int, int]]:
        """Of each slab: its first unit in the chunk, its number of units, its first unit in the tile."""
        return [
            (slab.unit_start, slab.n_units, start)
            for slab, start in zip(self.slabs, self.unit_starts, strict=True)
        ]

    def gathered(self, state: Tensor) -> Tensor:
        """The tile's rows: a view of the state for one slab, a copy for several."""
        parts = [state[slab.state_start : slab.state_start + slab.n_rows] for slab in self.slabs]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def put_back(self, rows: Tensor, state: Tensor) -> None:
        """Write a copy of the tile's rows back; a view is in place already."""
        if len(self.slabs) > 1:
            for slab, start in zip(self.slabs, self.row_starts, strict=True):
                state[slab.state_start : slab.state_start + slab.n_rows] = rows[start : start + slab.n_rows]

    def changed_rows(self) -> list[int]:
        """Rows of the tokens that its units' first edits changed."""
        rows = []
        for slab, start in zip(self.slabs, self.row_starts, strict=True):
            units = slab.group.units[slab.first_unit : slab.first_unit + slab.n_units]
            for number, unit in enumerate(units):
                offset = start + number * slab.group.width - slab.group.first
                rows += [offset + p for p in unit.first_changed]
        return rows


def slab_tiles(base: Run, groups: Sequence[Group], layer: int) -> list[SlabTile]:
    """The units at work in a block, in tiles of about equal row counts; fresh ones by themselves."""
    block = base.model.adapter.blocks[layer]
    most = tile_rows(base.model.device)
    key_bytes = 2 * block.n_kv_heads * block.d_head * base.model.dtype.itemsize
    tiles = []
    for fresh in (False, True):
        slabs = []
        for group in groups:
            older, working = group.entered_before(layer - 1), group.entered_before(layer)
            first, end = (older, working) if fresh else (0, older)
            if first < end:
                slabs.append(Slab(group, first, end - first))
        costs = [max(s.group.width, s.group.n_tokens * key_bytes * most // PREFIX_TILE_BYTES) for s in slabs]
        tiles += [SlabTile(cut, fresh) for cut in _cut(slabs, costs, most)]
    return tiles


def _cut(slabs: list[Slab], costs: list[int], most: int) -> list[list[Slab]]:
    """Slabs cut into tiles of about equal cost, none above `most` unless a single unit is; costs are per unit."""
    total = sum(slab.n_units * cost for slab, cost in zip(slabs, costs, strict=True))
    if not total:
        return []
    goal = total / -(-total // most)
    tiles: list[list[Slab]] = [[]]
    seen = 0
    for slab, cost in zip(slabs, costs, strict=True):
        first = 0
        while first < slab.n_units:
            room = max(round((goal * len(tiles) - seen) / cost), 0 if tiles[-1] else 1)
            if room == 0:
                tiles.append([])
                continue
            n = min(room, slab.n_units - first)
            tiles[-1].append(Slab(slab.group, slab.first_unit + first, n))
            first += n
            seen += n * cost
    return tiles


def pieces_of(base: Run, layer: int, tile: SlabTile) -> list[Piece]:
    """The tile's slabs as pieces, with the base's keys and values of the tokens before them."""
    pieces = []
    for slab, start in zip(tile.slabs, tile.row_starts, strict=True):
        k = v = None
        if slab.group.first:
            rows = base_rows(base, slab, 0, slab.group.first)
            k, v = base.kept["k"][layer][rows], base.kept["v"][layer][rows]
        pieces.append(Piece(start, slab.n_units, slab.group.width, k, v))
    return pieces


def own_base_rows(base: Run, tile: SlabTile) -> Int[Tensor, " row"]:
    """The base's row of each of the tile's rows."""
    return torch.cat([base_rows(base, s, s.group.first, s.group.n_tokens).flatten() for s in tile.slabs])


def base_rows(base: Run, slab: Slab, first: int, stop: int) -> Int[Tensor, "unit token"]:
    """The base run's rows of each unit's tokens first ... stop - 1."""
    starts = slab.group.base_starts[slab.first_unit : slab.first_unit + slab.n_units]
    return (starts[:, None] + torch.arange(first, stop)).to(base.resid[0].device)


def angles_at(base: Run, rows: Int[Tensor, " row"]) -> Rotary | None:
    """The base's rotary angles of chosen rows, where the model has any."""
    return None if base.rotary is None else base.rotary.at(rows)
