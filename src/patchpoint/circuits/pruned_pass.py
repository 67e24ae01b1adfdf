"""The model without some of its heads and MLPs, run from any block on: what a greedy search tries again and again.

What a search tries differs from what it has kept only from one block on, so the streams that reach each block are
held and nothing below is computed again. Of the blocks above only what still acts is computed: no MLP that is
removed, no attention in a block without heads, and behind the last block that has heads only the final tokens.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from patchpoint.engine import Model, Run, Site
from patchpoint.engine.batch import Packing
from patchpoint.engine.graph.nodes import Node
from patchpoint.engine.metrics import Asked, Readout, Rows, metric_of
from patchpoint.engine.packed import last_step, mixed_heads
from patchpoint.engine.prompt_tiles import Tile
from patchpoint.engine.sources import Source
from patchpoint.engine.visit import NOWHERE, Visit
from patchpoint.models.families import Block, Rotary

from .ablation import OUTPUTS
from .exchange import Metric

Removed = frozenset[Node]
HELD = ("head", "mlp", "attention")


@dataclass(frozen=True, eq=False)
class StandIns:
    """What stands in for the outputs of removed nodes, on all packed rows of the prompts.

    Raises what a source raises that cannot serve a prompt.
    """

    model: Model
    packing: Packing
    sources: dict[str, float | Source]
    """By kind of node."""
    held: dict[str, dict[int, Tensor]] = field(
        repr=False, default_factory=lambda: {kind: {} for kind in HELD}
    )
    """By what it stands in for, and by layer, what has been looked up."""

    def __post_init__(self) -> None:
        for kind, source in self.sources.items():
            if isinstance(source, Source):
                for prompt in range(len(self.packing.lengths)):
                    source.check(Site(0, OUTPUTS[kind]), prompt, self.packing.lengths)

    def with_mlps(self, source: Source) -> "StandIns":
        """The same for heads, another source for MLPs."""
        return replace(self, sources={**self.sources, "mlp": source}, held={**self.held, "mlp": {}})

    def heads(self, layer: int) -> Float[Tensor, "row head d_head"]:
        """In place of every head's z."""
        block = self.model.adapter.blocks[layer]
        return self._of("head", layer, (block.n_heads, block.d_head))

    def mlp(self, layer: int) -> Float[Tensor, "row d_model"]:
        """In place of an MLP's output."""
        return self._of("mlp", layer, (self.model.d_model,))

    def attention(self, block: Block, layer: int) -> Float[Tensor, "row d_model"]:
        """What a block's attention adds to the stream once all its heads are removed."""
        held = self.held["attention"]
        if layer not in held:
            held[layer] = block.attn_out(self.heads(layer))
        return held[layer]

    def _of(self, kind: str, layer: int, axes: tuple[int, ...]) -> Tensor:
        held = self.held[kind]
        if layer not in held:
            held[layer] = self._looked_up(kind, layer, axes)
        return held[layer]

    def _looked_up(self, kind: str, layer: int, axes: tuple[int, ...]) -> Tensor:
        source, lengths = self.sources[kind], self.packing.lengths
        if not isinstance(source, Source):
            number = torch.full((1,) * (1 + len(axes)), float(source), device=self.model.device)
            return number.to(self.model.dtype).expand(self.packing.n_rows, *axes)
        prompts = [prompt for prompt in self.packing.order for _ in range(lengths[prompt])]
        positions = [p for prompt in self.packing.order for p in range(lengths[prompt])]
        found = source.rows(OUTPUTS[kind], layer, prompts, positions)
        return found.to(self.model.device, self.model.dtype)


@dataclass(frozen=True, eq=False)
class PrunedPass:
    """Prompts on their way through a model that loses nodes.

    `streams[k]` is what block k reads; whoever removes nodes below block k sees to it that it is made anew.
    """

    model: Model
    packing: Packing
    rotary: Rotary | None
    tiles: list[Tile]
    streams: list[Tensor]
    asked: Asked
    metric: Metric

    @classmethod
    def of(cls, run: Run, metric: Metric) -> "PrunedPass":
        """From a run of all nodes, whose streams it takes over."""
        asked = Asked.of(run.batch, Readout(run.model.adapter, run.final))
        return cls(run.model, run.packing, run.rotary, run.tiles, list(run.resid[:-1]), asked, metric)

    @torch.no_grad()
    def mixed(self, layer: int) -> Float[Tensor, "row head d_head"]:
        """z of every head of a block, from the stream that reaches it."""
        with self.model.block(layer) as block:
            return torch.cat([self._z(block, self.streams[layer], tile) for tile in self.tiles])

    @torch.no_grad()
    def advance(self, layer: int, z: Tensor | None, removed: Removed, stand_ins: StandIns) -> None:
        """Make the stream behind a block anew, from its heads' z before any is removed; None: all are."""
        stream = self.streams[layer].clone()
        self._all_rows(layer, stream, z, removed, stand_ins)
        self.streams[layer + 1] = stream

    @torch.no_grad()
    def values(
        self, layer: int, z: Tensor, removed: Removed, stand_ins: StandIns
    ) -> Float[Tensor, " prompt"]:
        """The metric of every prompt without these nodes, of which those below `layer` are gone from its stream.

        `z`: of that block's heads, before any is removed.
        """
        alive = [k for k in range(layer + 1, self.model.n_layers) if not headless(self.model, k, removed)]
        last, finals = max(alive, default=layer), self._finals
        if alive:
            stream = self.streams[layer].clone()
            for k in range(layer, last):
                self._all_rows(k, stream, z if k == layer else None, removed, stand_ins)
            stream = self._final_rows(last, stream, removed, stand_ins)
        else:
            stream = self.streams[layer][finals]
            with self.model.block(layer) as block:
                _through(block, layer, stream, finals, z[finals], removed, stand_ins)
        for k in range(last + 1, self.model.n_layers):
            with self.model.block(k) as block:
                _through(block, k, stream, finals, None, removed, stand_ins)
        return self._read(stream)

    def _all_rows(
        self, layer: int, stream: Tensor, z: Tensor | None, removed: Removed, stand_ins: StandIns
    ) -> None:
        """One block on all rows, in place."""
        dead = headless(self.model, layer, removed)
        with self.model.block(layer) as block:
            for tile in self.tiles:
                rows = slice(tile.start, tile.stop)
                mine = None if dead else self._z(block, stream, tile) if z is None else z[rows]
                _through(block, layer, stream[rows], rows, mine, removed, stand_ins)

    def _final_rows(self, layer: int, stream: Tensor, removed: Removed, stand_ins: StandIns) -> Tensor:
        """The last block in which anything moves between tokens: the stream behind it at final tokens alone."""
        heads, parts = list(_heads(removed, layer)), []
        stops = {"z"} if heads else set()
        stops |= {"mlp_out"} if Node("mlp", layer) in removed else set()
        with self.model.block(layer) as block:
            for tile in self.tiles:
                rows = self._finals[(self._finals >= tile.start) & (self._finals < tile.stop)]

                def put(component: str, of_finals: Tensor, start: int, rows: Tensor = rows) -> None:
                    if component == "z":
                        of_finals[:, heads] = stand_ins.heads(layer)[rows][:, heads]
                    else:
                        of_finals.copy_(stand_ins.mlp(layer)[rows])

                at, resid, angles = rows - tile.start, stream[tile.start : tile.stop], self._angles(tile)
                attn_in = block.attn_in(resid)
                q = block.q(attn_in[at], None if angles is None else angles.at(at))
                kv = block.kv(attn_in, angles)
                parts.append(last_step(block, resid[at], q, kv, tile.pieces, Visit(frozenset(stops), put)))
        return torch.cat(parts)

    def _z(self, block: Block, stream: Tensor, tile: Tile) -> Tensor:
        qkv = block.qkv(block.attn_in(stream[tile.start : tile.stop]), self._angles(tile))
        return mixed_heads(block, qkv, tile.pieces, NOWHERE)

    def _angles(self, tile: Tile) -> Rotary | None:
        return None if self.rotary is None else self.rotary.between(tile.start, tile.stop)

    @cached_property
    def _finals(self) -> Tensor:
        """Rows of final tokens, in the order of the rows."""
        return torch.tensor(sorted(self.packing.final_rows()), device=self.model.device)

    def _read(self, stream: Tensor) -> Float[Tensor, " prompt"]:
        prompts = torch.tensor(self.packing.order, device=stream.device)
        with self.model.ends() as adapter:
            readout = Readout(adapter, adapter.final(stream))
            found = metric_of(self.metric)(Rows(readout, prompts, self.asked))
        values = torch.empty_like(found)
        values[prompts] = found
        return values.cpu()


def _through(
    block: Block,
    layer: int,
    stream: Tensor,
    rows: slice | Tensor,
    z: Tensor | None,
    removed: Removed,
    stand_ins: StandIns,
) -> None:
    """Some rows through one block, in place, from their heads' z on; None: of a block that has lost all heads."""
    heads = list(_heads(removed, layer))
    if z is None or len(heads) == block.n_heads:
        attn_out = stand_ins.attention(block, layer)[rows]
    else:
        if heads:
            z = z.clone()
            z[:, heads] = stand_ins.heads(layer)[rows][:, heads]
        attn_out = block.attn_out(z)
    if Node("mlp", layer) in removed:
        stream.add_(attn_out).add_(stand_ins.mlp(layer)[rows])
    elif block.parallel:
        mlp_out = block.mlp_out(stream)
        stream.add_(attn_out).add_(mlp_out)
    else:
        stream.add_(attn_out)
        stream.add_(block.mlp_out(stream))


def _heads(removed: Collection[Node], layer: int) -> tuple[int, ...]:
    """Removed heads of one block."""
    return tuple(sorted(node.head for node in removed if node.kind == "head" and node.layer == layer))


def headless(model: Model, layer: int, removed: Collection[Node]) -> bool:
    """Whether a block has lost all heads."""
    return len(_heads(removed, layer)) == model.adapter.blocks[layer].n_heads
