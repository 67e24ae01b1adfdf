"""A batch's packed rows in tiles of whole prompts."""

from dataclasses import dataclass

import torch

from .attention import Piece
from .batch import Packing
from .memory import even_cuts

CPU_TILE_ROWS = 1024
"""Rows of a tile on a CPU: large enough for full matrix-product speed, small enough to stay in its cache."""
GPU_TILE_ROWS = 16384


@dataclass(frozen=True, eq=False)
class Tile:
    """Packed rows that go through a block together: those of whole prompts."""

    start: int
    stop: int
    pieces: list[Piece]


def tile_rows(device: torch.device) -> int:
    """Rows that one step takes through a block at once."""
    return CPU_TILE_ROWS if device.type == "cpu" else GPU_TILE_ROWS


def whole_prompt_tiles(packing: Packing, most_rows: int) -> list[Tile]:
    """All prompts in packed order, cut into tiles of about equal row counts."""
    lengths = [packing.lengths[prompt] for prompt in packing.order]
    tiles: list[Tile] = []
    first = row = 0
    for end in even_cuts(lengths, most_rows):
        pieces: list[Piece] = []
        at = 0
        for n_tokens in sorted(set(lengths[first:end])):
            units = lengths[first:end].count(n_tokens)
            pieces.append(Piece(at, units, n_tokens, None, None))
            at += units * n_tokens
        tiles.append(Tile(row, row + at, pieces))
        first, row = end, row + at
    return tiles
