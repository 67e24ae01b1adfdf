"""Single-edge changes of a graph run going up the layers together, as differences from it.

Rows are those of a group of pairs, once for each change: [change, prompt, token]. What no change reaches is the
graph run's own; a node that is reached is computed again for all rows at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from patchpoint.engine.packed import Projections
from patchpoint.engine.ports import READERS
from patchpoint.models.families import Rotary

from .held import HeldGraph, mixtures, project
from .nodes import PARTS
from .wiring import Inlet, Route


@dataclass(frozen=True, eq=False)
class Wave:
    """What the changes have made different so far."""

    held: HeldGraph
    route: Route
    times: int
    """Number of changes."""
    stream: Float[Tensor, "row d_model"]
    """The stream less the graph run's."""
    apart: Float[Tensor, "row sender d_model"]
    """The same of those senders that some port must tell apart."""
    finals_only: bool = False
    """Whether its rows are the prompts' last tokens alone."""

    @classmethod
    def start(cls, held: HeldGraph, route: Route, times: int, *, finals_only: bool) -> "Wave":
        """No change yet."""
        n_rows = times * (len(held.pairs.prompts) if finals_only else len(held.pairs.rows))
        stream = held.differences.new_zeros(n_rows, held.differences.shape[-1])
        apart = stream.new_zeros(n_rows, len(route.stored), stream.shape[1])
        return cls(held, route, times, stream, apart, finals_only)

    def finals(self) -> "Wave":
        """The same at the prompts' last tokens alone."""
        at = self.held.pairs.finals
        return replace(self, stream=self.stream[at], apart=self.apart[at], finals_only=True)

    def of_held(self, rows: Float[Tensor, "row ..."]) -> Float[Tensor, "row ..."]:
        """The graph run's rows at the wave's tokens, once for each change."""
        return repeated(rows[self.held.pairs.finals] if self.finals_only else rows, self.times)

    def read(
        self, inlet: Inlet, rows: Float[Tensor, "row port d_model"]
    ) -> Float[Tensor, "row port d_model"]:
        """What ports read in place of the graph run's `rows`."""
        start = self.of_held(rows)
        if inlet.natural.any():
            start.addcmul_(inlet.natural[:, None].to(start), self.stream[:, None])
        return inlet.read(start, self.apart)

    def add(self, senders: Sequence[int], changes: Float[Tensor, "row sender d_model"]) -> None:
        """Take up what senders write beyond what they wrote in the graph run, where the logits can hear it."""
        reached = [i for i, sender in enumerate(senders) if sender in self.route.reached]
        self.stream.add_((changes if len(reached) == len(senders) else changes[:, reached]).sum(1))
        told = [(i, self.route.stored[s]) for i, s in enumerate(senders) if s in self.route.stored]
        if told:
            mine, places = zip(*told, strict=True)
            self.apart[:, list(places)] = changes[:, list(mine)]

    def at_logits(self) -> Float[Tensor, "row 1 d_model"]:
        """What the logits read, at the prompts' last tokens."""
        last = self if self.finals_only else self.finals()
        start = repeated(self.held.final, self.times)
        logits = last.route.logits
        start.addcmul_(logits.natural[:, None].to(start), last.stream[:, None])
        return logits.read(start, last.apart)


def repeated(rows: Float[Tensor, "row ..."], times: int) -> Float[Tensor, "repeated_row ..."]:
    """Rows one whole time after the other, in memory of their own."""
    return rows.repeat(times, *[1] * (rows.dim() - 1))


def by_change(rows: Float[Tensor, "repeated_row ..."], times: int) -> Float[Tensor, "change row ..."]:
    """Rows that `repeated` made, by repetition."""
    return rows.view(times, -1, *rows.shape[1:])


def repeated_angles(angles: Rotary | None, times: int) -> Rotary | None:
    """As `repeated`, of rotary angles."""
    return None if angles is None else Rotary(repeated(angles.cos, times), repeated(angles.sin, times))


def rise(wave: Wave, first_layer: int) -> Float[Tensor, "row d_model"]:
    """The logits' inputs, [change * prompt], of changes whose wave has come through layers below `first_layer`."""
    wiring = wave.held.wiring
    for layer in range(first_layer, len(wiring.blocks)):
        last = layer == len(wiring.blocks) - 1
        heads = wave.route.heads.get(layer)
        with wiring.model.block(layer):
            change = None if heads is None else _heads_change(wave, heads, layer, last=last)
            wave = wave.finals() if last and not wave.finals_only else wave
            wave = through_mlp(wave, layer, change)
    return wave.at_logits()[:, 0]


def through_mlp(wave: Wave, layer: int, heads_change: Tensor | None) -> Wave:
    """The rest of a layer once its heads have changed what they write (None: they have not)."""
    graph, block = wave.held.wiring.graph, wave.held.wiring.blocks[layer]
    heads = range(*graph.heads(layer).indices(len(graph.senders)))
    if heads_change is not None and not block.parallel:
        wave.add(heads, heads_change)
    mlp_change = None
    if (inlet := wave.route.mlps.get(layer)) is not None:
        held = wave.held.layers[layer]
        x = wave.read(inlet, held.mlp_in)[:, 0]
        mlp_change = mlp_written(wave, layer, x)
    if heads_change is not None and block.parallel:
        wave.add(heads, heads_change)
    if mlp_change is not None:
        wave.add([graph.mlp(layer)], mlp_change)
    return wave


def mlp_written(wave: Wave, layer: int, x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row 1 d_model"]:
    """What a layer's MLP writes on reading `x`, less what it wrote in the graph run."""
    block, held = wave.held.wiring.blocks[layer], wave.held.layers[layer]
    out = block.mlp_out(x.to(wave.held.pairs.dtype)).to(x.dtype)
    return (out - wave.of_held(held.mlp_out))[:, None]


def _heads_change(
    wave: Wave, inlets: tuple[Inlet, ...], layer: int, *, last: bool
) -> Float[Tensor, "row head d_model"]:
    """What a layer's heads write less what they wrote in the graph run; of the last layer at last tokens alone."""
    pairs, held = wave.held.pairs, wave.held.layers[layer]
    block = wave.held.wiring.blocks[layer]
    angles = repeated_angles(pairs.angles, wave.times)
    if last:
        qkv = _last_projections(wave, inlets, layer, angles)
        written_at = wave.finals()
    else:
        written_at = wave
        if len(inlets) == 1:
            qkv = project(block, (wave.read(inlets[0], held.heads_in[0]).to(pairs.dtype),), angles)
        else:
            q, k, v = (_part(wave, inlets, layer, part, angles) for part in range(3))
            qkv = q, k, v
    prefix = tuple(None if rows is None else repeated(rows, wave.times) for rows in pairs.prefix(layer))
    units = wave.times * len(pairs.prompts)
    z = mixtures(block, qkv, (prefix[0], prefix[1]), units, pairs.width)
    return block.heads_out(z).to(wave.stream.dtype).sub_(written_at.of_held(held.heads_out))


def _part(
    wave: Wave, inlets: tuple[Inlet, ...], layer: int, part: int, angles: Rotary | None
) -> Float[Tensor, "row any_head d_head"]:
    """Queries, keys or values of heads with an input each: the graph run's where no port hears a change."""
    held, block = wave.held.layers[layer], wave.held.wiring.blocks[layer]
    if inlets[part].idle:
        return wave.of_held(held.qkv[part])
    x = wave.read(inlets[part], held.heads_in[part])
    return READERS[PARTS[part]](block, x.to(wave.held.pairs.dtype), angles)


def _last_projections(
    wave: Wave, inlets: tuple[Inlet, ...], layer: int, angles: Rotary | None
) -> Projections:
    """Queries of last tokens alone, keys and values of all."""
    block, pairs, finals = wave.held.wiring.blocks[layer], wave.held.pairs, wave.held.pairs.finals
    last_angles = None if angles is None else Rotary(angles.cos[finals], angles.sin[finals])
    if len(inlets) == 1:
        x = wave.read(inlets[0], wave.held.layers[layer].heads_in[0])[:, 0].to(pairs.dtype)
        attn_in = block.attn_in(x)
        return block.q(attn_in[finals], last_angles), *block.kv(attn_in, angles)
    q = _part(wave.finals(), inlets, layer, 0, last_angles)
    return q, _part(wave, inlets, layer, 1, angles), _part(wave, inlets, layer, 2, angles)
