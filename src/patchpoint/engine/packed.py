"""The hot step: one block on packed rows of changed tokens only.

Axes: R rows of the tile, U units of the tile, H heads, G key/value heads, K head width, D d_model; others as in
`attention`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from patchpoint.models.families import Block, Rotary

from .attention import Piece, attend, per_head
from .ports import INPUTS, READERS
from .visit import Visit

Projections = tuple[Tensor, Tensor, Tensor]
"""Queries [R, H, K], keys and values [R, G, K] of the same rows (or [R, H, K], one per query head)."""


def block_step(
    block: Block,
    resid_RD: Tensor,
    qkv: Projections,
    angles: Rotary | None,
    pieces: Sequence[Piece],
    visit: Visit,
) -> None:
    """Take the rows' residual stream through one block, in place, from their projections on."""
    qkv = edited_projections(block, resid_RD, qkv, angles, visit)
    after_attention(block, resid_RD, mixed_heads(block, qkv, pieces, visit), visit)


def edited_projections(
    block: Block, resid_RD: Tensor, qkv: Projections, angles: Rotary | None, visit: Visit
) -> Projections:
    """Projections once visitors have been at the heads' own inputs and at q, k and v themselves."""
    q, (k, v) = edited_q(block, resid_RD, qkv[0], angles, visit), qkv[1:]
    return q, *edited_kv(block, resid_RD, (k, v), angles, visit)


def edited_q(block: Block, resid_RD: Tensor, q_RHK: Tensor, angles: Rotary | None, visit: Visit) -> Tensor:
    """As `edited_projections`, for queries alone."""
    if visit.wants(INPUTS["q"]):
        _read_again(block, "q", resid_RD, q_RHK, angles, visit)
    visit("q", q_RHK)
    return q_RHK


def edited_kv(
    block: Block, resid_RD: Tensor, kv: tuple[Tensor, Tensor], angles: Rotary | None, visit: Visit
) -> tuple[Tensor, Tensor]:
    """As `edited_projections`, for keys and values; per query head once one head's own input was visited."""
    k, v = kv
    visit("k", k)
    visit("v", v)
    if visit.wants(INPUTS["k"]):
        k = per_head(k, block.n_heads).contiguous()
        _read_again(block, "k", resid_RD, k, angles, visit)
    if visit.wants(INPUTS["v"]):
        v = per_head(v, block.n_heads).contiguous()
        _read_again(block, "v", resid_RD, v, angles, visit)
    return k, v


def _read_again(
    block: Block, part: str, resid_RD: Tensor, projection_RHK: Tensor, angles: Rotary | None, visit: Visit
) -> None:
    """Project anew, in place, what heads read whose own copy of the stream is no longer the stream."""
    copies_RHD = resid_RD[:, None].expand(-1, block.n_heads, -1).clone()
    visit(INPUTS[part], copies_RHD)
    rows, heads = (copies_RHD != resid_RD[:, None]).any(-1).nonzero(as_tuple=True)
    if not len(rows):
        return
    at, place = torch.unique(rows, return_inverse=True)
    new = READERS[part](block, copies_RHD[at], None if angles is None else angles.at(at))
    projection_RHK[rows, heads] = new[place, heads]


def mixed_heads(block: Block, qkv: Projections, pieces: Sequence[Piece], visit: Visit) -> Tensor:
    """Each head's mixture of values, `z`, for all rows."""
    q_RHK, k_RGK, v_RGK = qkv
    z_RHK = q_RHK.new_empty(q_RHK.shape)
    for piece in pieces:
        rows = slice(piece.start, piece.stop)
        own = (q_RHK[rows], k_RGK[rows], v_RGK[rows])
        z_NHWK = attend(block, piece, own, piece.width, visit, piece.start)
        z_RHK[rows].view(piece.units, piece.width, *z_RHK.shape[1:]).copy_(z_NHWK.transpose(1, 2))
    return z_RHK


def final_rows(pieces: Sequence[Piece], device: torch.device) -> Tensor:
    """Row of each unit's final token, shape [unit]."""
    return torch.cat([torch.arange(p.start + p.width - 1, p.stop, p.width, device=device) for p in pieces])


def last_step(
    block: Block,
    resid_UD: Tensor,
    q_UHK: Tensor,
    kv: tuple[Tensor, Tensor],
    pieces: Sequence[Piece],
    visit: Visit,
) -> Tensor:
    """The last block for each unit's final token alone: the stream after it, shape [unit, d_model].

    `resid_UD` and `q_UHK` have one row per unit, keys and values one per row of the tile.
    """
    z_UHK = torch.empty_like(q_UHK)
    first = 0
    for piece in pieces:
        rows, units = slice(piece.start, piece.stop), slice(first, first + piece.units)
        own = (q_UHK[units], kv[0][rows], kv[1][rows])
        z_UHK[units] = attend(block, piece, own, 1, visit, first)[:, :, 0]
        first += piece.units
    after_attention(block, resid_UD, z_UHK, visit)
    return resid_UD


def after_attention(block: Block, resid_RD: Tensor, z_RHK: Tensor, visit: Visit) -> None:
    """The rest of a block once the heads have mixed their values, in place on the residual stream."""
    visit("z", z_RHK)
    attn_out_RD = block.attn_out(z_RHK)
    visit("attn_out", attn_out_RD)
    if block.parallel:
        mlp_out_RD = _mlp(block, resid_RD, visit)
        resid_RD.add_(attn_out_RD)
    else:
        resid_RD.add_(attn_out_RD)
        visit("resid_mid", resid_RD)
        mlp_out_RD = _mlp(block, resid_RD, visit)
    after_mlp(resid_RD, mlp_out_RD, visit)


def _mlp(block: Block, resid_RD: Tensor, visit: Visit) -> Tensor:
    if visit.wants("mlp_in"):
        resid_RD = resid_RD.clone()
        visit("mlp_in", resid_RD)
    if not visit.wants("mlp_post"):
        return block.mlp_out(resid_RD)
    neurons = block.mlp_post(resid_RD)
    visit("mlp_post", neurons)
    return block.mlp_down(neurons)


def after_mlp(resid_RD: Tensor, mlp_out_RD: Tensor, visit: Visit) -> None:
    """The end of a block, in place on the residual stream."""
    visit("mlp_out", mlp_out_RD)
    resid_RD.add_(mlp_out_RD)
    visit("resid_post", resid_RD)
