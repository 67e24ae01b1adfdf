"""A whole batch through one block, edited and recorded on the way."""

from collections.abc import Collection, Sequence

from torch import Tensor

from patchpoint.models.families import Block, Rotary

from .packed import after_attention, edited_projections, mixed_heads
from .prompt_tiles import Tile
from .row_edits import StageEdits, visit_slabs
from .visit import Visit


def through_block(
    block: Block,
    stream: Tensor,
    rotary: Rotary | None,
    tiles: Sequence[Tile],
    edits: StageEdits,
    wanted: Collection[str],
) -> dict[str, Tensor]:
    """Take the stream through one block, in place, and return the wanted components of all its rows.

    Rows of `pattern` are as long as the longest prompt, with zeros for tokens that a prompt does not have.
    """
    found: dict[str, Tensor] = {}
    longest = max(piece.width for tile in tiles for piece in tile.pieces)
    for tile in tiles:
        edit = visit_slabs(edits, [(tile.start + p.start, p.stop - p.start, p.start) for p in tile.pieces])

        def record(component: str, rows: Tensor, first: int, edit: Visit = edit, tile: Tile = tile) -> None:
            edit(component, rows, first)
            if component in wanted:
                if component not in found:
                    axes = (*rows.shape[1:-1], longest) if component == "pattern" else rows.shape[1:]
                    found[component] = rows.new_zeros((len(stream), *axes))
                start = tile.start + first
                found[component][start : start + len(rows), ..., : rows.shape[-1]] = rows

        visit = Visit(edit.at | frozenset(wanted) - {"k", "v"}, record)
        angles = None if rotary is None else rotary.between(tile.start, tile.stop)
        resid = stream[tile.start : tile.stop]
        qkv = edited_projections(block, resid, block.qkv(block.attn_in(resid), angles), angles, visit)
        # Recorded once heads' own inputs have been read, which may give each query head its own.
        for name, rows in (("k", qkv[1]), ("v", qkv[2])):
            if name in wanted:
                found.setdefault(name, rows.new_empty((len(stream), *rows.shape[1:])))
                found[name][tile.start : tile.stop] = rows
        after_attention(block, resid, mixed_heads(block, qkv, tile.pieces, visit), visit)
    return found
