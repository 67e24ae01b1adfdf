"""A run: one batch of prompts through the model once, keeping what sweeps and sources need."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchpoint.errors import InvalidArgument, UnknownName
from patchpoint.models.families import Block, Rotary

from .batch import Batch, Packing, packed_ids
from .edits import Placed, RowEdit, apply_to_all, resolve, row_edits
from .memory import GIB, budget_bytes, even_cuts
from .packed import Piece, block_step
from .sites import Edit, Site

if TYPE_CHECKING:
    from .model import Model

KEEPABLE = ("z", "attn_out", "resid_mid", "mlp_out")
CPU_TILE_ROWS = 1024
"""Rows of a tile on a CPU: large enough for full matrix-product speed, small enough to stay in its cache."""
GPU_TILE_ROWS = 16384


@dataclass(frozen=True, eq=False)
class Run:
    """One forward pass of a batch. Rows are packed tokens, `packing` says whose.

    The residual stream, keys and values are always kept; the components of KEEPABLE where asked for.
    """

    model: "Model"
    batch: Batch
    packing: Packing
    ids: Int[Tensor, " row"]
    positions: Int[Tensor, " row"]
    rotary: Rotary | None
    resid: tuple[Float[Tensor, "row d_model"], ...]
    """resid[k] is what block k reads, resid[n_layers] what the last block leaves."""
    kept: Mapping[str, tuple[Tensor, ...]] = field(repr=False)
    edits: tuple[Edit, ...] = ()
    """The edits it was run with; variants of this run carry them too."""

    @property
    def cache(self) -> "Cache":
        """Activations by site: `run.cache[Site(3, "attn_out")]`."""
        return Cache(self)

    def scored(self, correct: tuple[int, ...], incorrect: tuple[int, ...] | None) -> "Run":
        """This run with answers to score, one token per prompt."""
        return replace(self, batch=Batch(self.batch.tokens, correct, incorrect))

    @cached_property
    def logits(self) -> Float[Tensor, "prompt vocab"]:
        """Logits at each prompt's last token."""
        adapter = self.model.adapter
        with torch.no_grad():
            return adapter.unembed(adapter.final(self.final_resid), slice(None))

    @property
    def final_resid(self) -> Float[Tensor, "prompt d_model"]:
        """The stream after the last block at each prompt's last token."""
        return self.resid[-1][torch.tensor(self.packing.final_rows(), device=self.resid[-1].device)]

    def rows(self, component: str, layer: int) -> Tensor:
        """Activations of all packed rows at one component; InvalidArgument when the run did not keep it."""
        if component in ("resid_pre", "resid_post"):
            return self.resid[layer + (component == "resid_post")]
        if component not in self.kept:
            raise InvalidArgument(
                f"this run did not keep {component}; make it with model.run(..., keep=({component!r},))"
            )
        return self.kept[component][layer]


@dataclass(frozen=True, eq=False)
class Cache:
    """What a run kept, read by site."""

    run: Run

    def __getitem__(self, site: Site) -> Tensor | tuple[Tensor, ...]:
        """[prompt, pos, width] for prompts of one length (all heads of `z`: [prompt, pos, head, d_head]).

        Prompts of different lengths give one [pos, width] tensor each. Tensors are copies.
        """
        resolved = [
            resolve(self.run.model, Edit(site, "scale", 1.0), p, self.run.packing.lengths)
            for p in range(len(self.run.batch.tokens))
        ]
        rows = self.run.rows(site.component, site.layer)
        if site.head is not None:
            rows = rows[:, site.head]
        per_prompt = tuple(
            rows[
                torch.tensor(
                    [self.run.packing.offsets[c.prompt] + p for p in c.positions], device=rows.device
                )
            ]
            for c in resolved
        )
        return torch.stack(per_prompt) if len({len(part) for part in per_prompt}) == 1 else per_prompt


@torch.no_grad()
def forward(
    model: "Model",
    batch: Batch,
    edits: Sequence[Edit] = (),
    keep: Collection[str] = KEEPABLE,
    memory_gib: float | None = None,
) -> Run:
    """Run a batch through the model, with edits on every prompt. Equal to its prompts run one by one."""
    adapter = model.adapter
    packing = Packing(tuple(len(ids) for ids in batch.tokens))
    _check_keep(model, keep, packing, memory_gib)
    keep = [name for name in keep if name != "resid_mid" or not adapter.blocks[0].parallel]
    ids, positions = packed_ids(batch, packing, model.device)
    tables = {n: adapter.rotary(n) for n in set(packing.lengths)}
    angles = [table for prompt in packing.order if (table := tables[packing.lengths[prompt]]) is not None]
    rotary = Rotary.cat(angles) if angles else None
    changes = _changes_by_layer(model, edits, packing)

    embed = adapter.embed(ids)
    apply_to_all(changes.get(-1, {}), "embed", embed)
    stream = adapter.resid_pre(embed, positions)
    apply_to_all(changes.get(-1, {}), "resid_post", stream)
    resid = [stream]
    kept: dict[str, list[Tensor]] = {name: [] for name in ("k", "v", *keep)}
    tiles = whole_prompt_tiles(packing, tile_rows(model.device))
    for layer, block in enumerate(adapter.blocks):
        stream = stream.clone()
        rows_of = _through_block(block, stream, rotary, tiles, changes.get(layer, {}), kept)
        resid.append(stream)
        for name, layers in kept.items():
            layers.append(rows_of[name])
    layers_of = {name: tuple(layers) for name, layers in kept.items()}
    return Run(model, batch, packing, ids, positions, rotary, tuple(resid), layers_of, tuple(edits))


def _through_block(
    block: Block,
    stream: Tensor,
    rotary: Rotary | None,
    tiles: list["Tile"],
    edits: Mapping[str, list[RowEdit]],
    wanted: Collection[str],
) -> dict[str, Tensor]:
    """Take the stream through one block, in place, and return the wanted components of all its rows."""
    found: dict[str, Tensor] = {}
    for tile in tiles:

        def visit(component: str, rows: Tensor, tile: Tile = tile) -> None:
            for edit in edits.get(component, ()):
                edit.apply(rows, tile.start, len(rows), 0)
            if component in wanted:
                if component not in found:
                    found[component] = rows.new_empty((len(stream), *rows.shape[1:]))
                found[component][tile.start : tile.stop] = rows

        angles = None if rotary is None else rotary.between(tile.start, tile.stop)
        resid = stream[tile.start : tile.stop]
        block_step(block, resid, block.qkv(block.attn_in(resid), angles), tile.pieces, visit)
    return found


def tile_rows(device: torch.device) -> int:
    """Rows that one step takes through a block at once."""
    return CPU_TILE_ROWS if device.type == "cpu" else GPU_TILE_ROWS


def _check_keep(model: "Model", keep: Collection[str], packing: Packing, memory_gib: float | None) -> None:
    for name in keep:
        if name not in KEEPABLE:
            raise UnknownName("component to keep", name, KEEPABLE)
    widths = model.d_model + 2 * model.adapter.blocks[0].n_kv_heads * model.adapter.blocks[0].d_head
    widths += sum(
        model.n_heads * model.adapter.blocks[0].d_head if name == "z" else model.d_model for name in keep
    )
    needed = packing.n_rows * widths * model.n_layers * model.dtype.itemsize
    if needed > (budget := budget_bytes(memory_gib, model.device)):
        raise InvalidArgument(
            f"keeping {packing.n_rows} tokens of this model takes {needed / GIB:.2f} GiB, the budget is "
            f"{budget / GIB:.2f} GiB; give fewer prompts, a larger memory budget or keep=() "
        )


def _changes_by_layer(
    model: "Model", edits: Sequence[Edit], packing: Packing
) -> dict[int, dict[str, list[RowEdit]]]:
    found: dict[int, list[Placed]] = {}
    for order, edit in enumerate(edits):
        for prompt in range(len(packing.lengths)):
            change = resolve(model, edit, prompt, packing.lengths)
            rows = [packing.offsets[prompt] + p for p in change.positions]
            found.setdefault(change.layer, []).append((change, order, rows))
    return {layer: row_edits(model, items) for layer, items in found.items()}


@dataclass(frozen=True, eq=False)
class Tile:
    """Packed rows that go through a block together: those of whole prompts."""

    start: int
    stop: int
    pieces: list[Piece]


def base_tiles(run: Run) -> list[Tile]:
    """The tiles of a run's own packed rows."""
    return whole_prompt_tiles(run.packing, tile_rows(run.model.device))


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
