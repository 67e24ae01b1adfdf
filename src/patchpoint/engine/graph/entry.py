"""Where a changed edge comes in: the one port that reads it, its node computed again, nothing else of that layer."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from patchpoint.engine.ports import READERS

from .held import HeldGraph, mixtures
from .nodes import PARTS, Port
from .wave import Wave, by_change, mlp_written, repeated, repeated_angles, rise, through_mlp


@dataclass(frozen=True)
class EdgeChange:
    """One edge removed where it was kept, or added where it was not."""

    number: int
    """Its place in the sweep."""
    sender: int
    port: Port
    sign: float
    """+1 adds what the sender changes, -1 takes it away."""

    @property
    def place(self) -> tuple[int, str]:
        """Layer and kind of the node whose port it is; changes of one place go together."""
        return self.port.node.layer, self.port.node.kind


def changed_finals(held: HeldGraph, changes: Sequence[EdgeChange]) -> Float[Tensor, "row d_model"]:
    """The logits' inputs, [change * prompt], under each of several changes of one place."""
    return ENTRIES[changes[0].port.node.kind](held, changes)


def _into_logits(held: HeldGraph, changes: Sequence[EdgeChange]) -> Float[Tensor, "row d_model"]:
    at = held.pairs.finals
    return _changed_inputs(held.final[:, [0] * len(changes)], held.differences[at], changes).flatten(0, 1)


def _into_mlp(held: HeldGraph, changes: Sequence[EdgeChange]) -> Float[Tensor, "row d_model"]:
    layer, wiring = changes[0].port.node.layer, held.wiring
    wave = Wave.start(
        held,
        wiring.route([wiring.graph.mlp(layer)], layer),
        len(changes),
        finals_only=layer == len(wiring.blocks) - 1,
    )
    at = held.pairs.finals if wave.finals_only else slice(None)
    rows = held.layers[layer].mlp_in[at][:, [0] * len(changes)]
    x = _changed_inputs(rows, held.differences[at], changes).flatten(0, 1)
    with wiring.model.block(layer):
        wave.add([wiring.graph.mlp(layer)], mlp_written(wave, layer, x))
    return rise(wave, layer + 1)


def _into_heads(held: HeldGraph, changes: Sequence[EdgeChange]) -> Float[Tensor, "row d_model"]:
    layer, wiring = changes[0].port.node.layer, held.wiring
    heads = wiring.graph.heads(layer)
    changed = {heads.start + change.port.node.head for change in changes}
    if wiring.couples_heads:
        changed = set(range(heads.start, heads.stop))
    wave = Wave.start(
        held,
        wiring.route(sorted(changed), layer),
        len(changes),
        finals_only=layer == len(wiring.blocks) - 1,
    )
    before = held.layers[layer]
    z = by_change(wave.of_held(before.z), len(changes))
    for part, name in enumerate(PARTS):
        mine = [i for i, change in enumerate(changes) if change.port.part == name]
        if mine:
            found = _changed_heads(held, [changes[i] for i in mine], part, finals_only=wave.finals_only)
            z[mine, :, [changes[i].port.node.head for i in mine]] = found
    with wiring.model.block(layer) as block:
        out = block.heads_out(z.flatten(0, 1)).to(wave.stream.dtype)
        wave = through_mlp(wave, layer, out.sub_(wave.of_held(before.heads_out)))
    return rise(wave, layer + 1)


ENTRIES = {"logits": _into_logits, "mlp": _into_mlp, "head": _into_heads}


def _changed_heads(
    held: HeldGraph, changes: Sequence[EdgeChange], part: int, *, finals_only: bool
) -> Float[Tensor, "change row d_head"]:
    """The mixtures of the heads whose queries (part 0), keys (1) or values (2) read otherwise, one for each change.

    Heads are computed side by side in any case, so changes of different heads share a place, one for each head.
    """
    layer, pairs = changes[0].port.node.layer, held.pairs
    block, before = held.wiring.blocks[layer], held.layers[layer]
    heads = [change.port.node.head for change in changes]
    places = [heads[:i].count(head) for i, head in enumerate(heads)]
    n_places = max(places) + 1

    at = pairs.finals if finals_only and part == 0 else slice(None)
    heads_in = before.heads_in[0] if len(before.heads_in) == 1 else before.heads_in[part]
    ports = [0] * len(changes) if heads_in.shape[1] == 1 else heads
    x = _changed_inputs(heads_in[at][:, ports], held.differences[at], changes)
    side_by_side = x.new_zeros(n_places, x.shape[1], block.n_heads, x.shape[2])
    side_by_side[places, :, heads] = x
    angles = repeated_angles(pairs.angles, n_places)
    if angles is not None and finals_only and part == 0:
        angles = angles.at(torch.arange(len(angles.cos), device=x.device)[at])
    with held.wiring.model.block(layer):
        new = READERS[PARTS[part]](block, side_by_side.flatten(0, 1).to(pairs.dtype), angles)

    q = before.qkv[0][pairs.finals] if finals_only else before.qkv[0]
    parts = [repeated(rows, n_places) for rows in (q, *before.qkv[1:])]
    parts[part] = new
    k_prefix, v_prefix = (None if rows is None else repeated(rows, n_places) for rows in pairs.prefix(layer))
    units = n_places * len(pairs.prompts)
    z = mixtures(block, (parts[0], parts[1], parts[2]), (k_prefix, v_prefix), units, pairs.width)
    return by_change(z, n_places)[places, :, heads]


def _changed_inputs(
    rows: Float[Tensor, "row change d_model"],
    differences: Float[Tensor, "row sender d_model"],
    changes: Sequence[EdgeChange],
) -> Float[Tensor, "change row d_model"]:
    """What each change's port reads in place of the graph run's `rows`."""
    signs = rows.new_tensor([change.sign for change in changes])
    senders = [change.sender for change in changes]
    return (rows + signs[:, None] * differences[:, senders]).transpose(0, 1)
