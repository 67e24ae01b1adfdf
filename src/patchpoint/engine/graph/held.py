"""What the nodes of the graph compute from inputs of their own, and all of them in turn: a run of the graph.

Axes: row (tokens of a group of pairs), port (a layer's 1 or n_heads inputs), sender, head, d_head, d_model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from patchpoint.engine.attention import Piece, attend
from patchpoint.engine.packed import Projections
from patchpoint.engine.ports import READERS
from patchpoint.engine.visit import NOWHERE
from patchpoint.models.families import Block, Rotary

from .pairs import Pairs, Prefix
from .wiring import Inlet, Wiring

Inputs = tuple[Float[Tensor, "row port d_model"], ...]
"""What a layer's heads read: one input for all, or one per head for queries, keys and values each."""


@dataclass(frozen=True, eq=False)
class HeldLayer:
    """What one layer read and computed."""

    heads_in: Inputs
    qkv: Projections
    z: Float[Tensor, "row head d_head"]
    heads_out: Float[Tensor, "row head d_model"]
    mlp_in: Float[Tensor, "row 1 d_model"]
    mlp_out: Float[Tensor, "row d_model"]


@dataclass(frozen=True, eq=False)
class HeldGraph:
    """A run of the graph over one group of pairs."""

    pairs: Pairs
    wiring: Wiring
    layers: tuple[HeldLayer, ...]
    differences: Float[Tensor, "row sender d_model"]
    """What each sender writes, less what it writes in the corrupted run."""
    final: Float[Tensor, "prompt 1 d_model"]
    """The logits' input."""


def project(block: Block, inputs: Inputs, angles: Rotary | None) -> Projections:
    """Queries, keys and values; keys and values have one head per query head where each has its own input."""
    if len(inputs) == 1:
        return block.qkv(block.attn_in(inputs[0][:, 0]), angles)
    q, k, v = (read(block, x, angles) for read, x in zip(READERS.values(), inputs, strict=True))
    return q, k, v


def mixtures(
    block: Block, qkv: Projections, prefix: Prefix, units: int, width: int
) -> Float[Tensor, "query head d_head"]:
    """Each head's mixture of values for every query; units have `width` keys and the same number of queries each."""
    piece = Piece(0, units, width, *prefix)
    z = attend(block, piece, qkv, len(qkv[0]) // units, NOWHERE, 0)
    return z.transpose(1, 2).reshape(-1, block.n_heads, block.d_head)


def run_graph(pairs: Pairs, wiring: Wiring) -> HeldGraph:
    """Every node in turn, each on what the kept edges let it hear.

    Clean and corrupted outputs are computed by the same functions from inputs of the same shape, so that a node
    which reads the same numbers as in one of these runs writes the very same, too.
    """
    clean, graph = pairs.clean, wiring.graph
    dtype = wiring.dtype
    first = [pairs.stream(run, 0).to(dtype) for run in (clean, pairs.corrupt)]
    differences = first[0].new_zeros(len(first[0]), len(graph.senders), first[0].shape[1])
    differences[:, 0] = first[0] - first[1]
    gained = torch.zeros_like(first[0])
    layers = []
    for layer in range(clean.model.n_layers):
        with clean.model.block(layer):
            layers.append(_through_layer(pairs, wiring, layer, gained, differences))
    at = pairs.finals
    lasts = [pairs.stream(run, -1)[at].to(dtype) for run in (clean, pairs.corrupt)]
    inlet = wiring.inlet(wiring.kept[:, -1:])
    final = _heard(inlet, lasts[0] + gained[at], lasts[1], differences[at])
    return HeldGraph(pairs, wiring, tuple(layers), differences, final)


def _through_layer(
    pairs: Pairs,
    wiring: Wiring,
    layer: int,
    gained: Float[Tensor, "row d_model"],
    differences: Float[Tensor, "row sender d_model"],
) -> HeldLayer:
    """One layer's nodes. `gained` is the stream less the clean run's; it and `differences` are written to."""
    block, heads = wiring.blocks[layer], wiring.graph.heads(layer)
    dtype = differences.dtype
    clean, corrupt = (pairs.stream(run, layer) for run in (pairs.clean, pairs.corrupt))
    below = differences[:, : heads.start]
    inlets = [wiring.inlet(kept[: heads.start]) for kept in wiring.heads_kept(layer)]
    natural = clean.to(dtype) + gained
    heads_in = tuple(_heard(inlet, natural, corrupt.to(dtype), below) for inlet in inlets)
    qkv, z = _attention(pairs, block, layer, tuple(x.to(pairs.dtype) for x in heads_in))
    z_of = [_attention(pairs, block, layer, _as_inputs(x, heads_in))[1] for x in (clean, corrupt)]
    out, clean_out, corrupt_out = (block.heads_out(each).to(dtype) for each in (z, *z_of))
    differences[:, heads] = out - corrupt_out
    heads_gained = (out - clean_out).sum(1)
    if not block.parallel:
        clean, corrupt = (s + block.attn_out(each) for s, each in zip((clean, corrupt), z_of, strict=True))
        gained += heads_gained

    heard = heads.start if block.parallel else heads.stop
    inlet = wiring.inlet(wiring.mlp_kept(layer)[:heard])
    mlp_in = _heard(inlet, clean.to(dtype) + gained, corrupt.to(dtype), differences[:, :heard])
    mlp_out, clean_mlp, corrupt_mlp = (
        block.mlp_out(x.to(pairs.dtype)).to(dtype) for x in (mlp_in[:, 0], clean, corrupt)
    )
    differences[:, wiring.graph.mlp(layer)] = mlp_out - corrupt_mlp
    gained += mlp_out - clean_mlp
    if block.parallel:
        gained += heads_gained
    return HeldLayer(heads_in, qkv, z, out, mlp_in, mlp_out)


def _heard(
    inlet: Inlet,
    natural: Float[Tensor, "row d_model"],
    corrupt: Float[Tensor, "row d_model"],
    differences: Float[Tensor, "row sender d_model"],
) -> Float[Tensor, "row port d_model"]:
    start = torch.where(inlet.natural[:, None], natural[:, None], corrupt[:, None])
    return inlet.read(start, differences)


def _as_inputs(stream: Float[Tensor, "row d_model"], like: Sequence[Tensor]) -> Inputs:
    """A stream as inputs of the same shapes, the same for every port."""
    return tuple(stream[:, None].expand(-1, x.shape[1], -1).contiguous() for x in like)


def _attention(
    pairs: Pairs, block: Block, layer: int, inputs: Inputs
) -> tuple[Projections, Float[Tensor, "row head d_head"]]:
    qkv = project(block, inputs, pairs.angles)
    return qkv, mixtures(block, qkv, pairs.prefix(layer), len(pairs.prompts), pairs.width)
