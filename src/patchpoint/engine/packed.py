"""The hot step: one block on packed rows of changed tokens only.

Axes: R rows of the tile, N units (variant x prompt) of a piece, W changed tokens of a unit (its suffix), F tokens
before them (unchanged, keys and values from the base run), T = F + W, H heads, G key/value heads, K head width,
D d_model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F_
from torch import Tensor

from patchpoint.models.families import Block

Projections = tuple[Tensor, Tensor, Tensor]
"""Queries [R, H, K], keys and values [R, G, K] of the same rows."""
Visit = Callable[[str, Tensor], None]
"""Called with a component's name and rows as soon as they exist; may change them in place."""


@dataclass(frozen=True)
class Piece:
    """Units of one shape inside a tile: rows start ... start + units * width."""

    start: int
    units: int
    width: int
    k_prefix_NFGK: Tensor | None
    v_prefix_NFGK: Tensor | None

    @property
    def stop(self) -> int:
        """End of the piece's rows, exclusive."""
        return self.start + self.units * self.width


def block_step(
    block: Block, resid_RD: Tensor, qkv: Projections, pieces: Sequence[Piece], visit: Visit
) -> None:
    """Take the rows' residual stream through one block, in place, from their projections on."""
    visit("k", qkv[1])
    visit("v", qkv[2])
    after_attention(block, resid_RD, mixed_heads(block, qkv, pieces), visit)


def mixed_heads(block: Block, qkv: Projections, pieces: Sequence[Piece]) -> Tensor:
    """Each head's mixture of values, `z`, for all rows."""
    q_RHK, k_RGK, v_RGK = qkv
    z_RHK = q_RHK.new_empty(q_RHK.shape)
    for piece in pieces:
        rows = slice(piece.start, piece.stop)
        z_NHWK = _attend(block, piece, q_RHK[rows], k_RGK[rows], v_RGK[rows], piece.width)
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
    k_RGK, v_RGK = kv
    z_UHK = torch.empty_like(q_UHK)
    first = 0
    for piece in pieces:
        rows, units = slice(piece.start, piece.stop), slice(first, first + piece.units)
        z_UHK[units] = _attend(block, piece, q_UHK[units], k_RGK[rows], v_RGK[rows], 1)[:, :, 0]
        first += piece.units
    after_attention(block, resid_UD, z_UHK, visit)
    return resid_UD


def after_attention(block: Block, resid_RD: Tensor, z_RHK: Tensor, visit: Visit) -> None:
    """The rest of a block once the heads have mixed their values, in place on the residual stream."""
    visit("z", z_RHK)
    attn_out_RD = block.attn_out(z_RHK)
    visit("attn_out", attn_out_RD)
    if block.parallel:
        mlp_out_RD = block.mlp_out(resid_RD)
        resid_RD.add_(attn_out_RD)
    else:
        resid_RD.add_(attn_out_RD)
        visit("resid_mid", resid_RD)
        mlp_out_RD = block.mlp_out(resid_RD)
    visit("mlp_out", mlp_out_RD)
    resid_RD.add_(mlp_out_RD)
    visit("resid_post", resid_RD)


def _attend(
    block: Block, piece: Piece, q_RHK: Tensor, k_RGK: Tensor, v_RGK: Tensor, n_queries: int
) -> Tensor:
    """Attention of each unit's last `n_queries` tokens over its prefix and its own tokens: [N, H, n_queries, K]."""
    q_NQHK = q_RHK.view(piece.units, n_queries, *q_RHK.shape[1:])
    k_NTGK = _with_prefix(piece.k_prefix_NFGK, k_RGK.view(piece.units, piece.width, *k_RGK.shape[1:]))
    v_NTGK = _with_prefix(piece.v_prefix_NFGK, v_RGK.view(piece.units, piece.width, *v_RGK.shape[1:]))
    n_keys = k_NTGK.shape[1]
    mask_QT = _mask(n_queries, n_keys, block.window, q_RHK.device)
    q, k, v = q_NQHK.transpose(1, 2), k_NTGK.transpose(1, 2), v_NTGK.transpose(1, 2)
    if block.softcap is not None:
        return _softcapped(q, k, v, mask_QT, block.scale, block.softcap)
    grouped = block.n_heads != block.n_kv_heads
    return F_.scaled_dot_product_attention(q, k, v, attn_mask=mask_QT, scale=block.scale, enable_gqa=grouped)


def _with_prefix(prefix_NFGK: Tensor | None, own_NWGK: Tensor) -> Tensor:
    return own_NWGK if prefix_NFGK is None else torch.cat((prefix_NFGK, own_NWGK), dim=1)


def _mask(n_queries: int, n_keys: int, window: int | None, device: torch.device) -> Tensor | None:
    """True where a query may look; None when it may look everywhere."""
    if n_queries == 1 and (window is None or n_keys <= window):
        return None
    behind = torch.arange(n_keys - n_queries, n_keys, device=device)[:, None] - torch.arange(
        n_keys, device=device
    )
    allowed = behind >= 0
    return allowed if window is None else allowed & (behind < window)


def _softcapped(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, softcap: float) -> Tensor:
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    scores = (q @ k.transpose(-1, -2)).mul_(scale).div_(softcap).tanh_().mul_(softcap)
    if mask is not None:
        scores.masked_fill_(~mask, float("-inf"))
    return scores.softmax(dim=-1, dtype=torch.float32).to(q.dtype) @ v
