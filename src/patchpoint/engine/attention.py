"""Attention of packed units: each over its own tokens, and over the base run's tokens before them.

Axes: N units of a piece, W changed tokens of a unit (its suffix), F tokens before them (unchanged, keys and values
from the base run), T = F + W, Q queries (the last of T), H heads, G key/value heads (or H, one per query head),
K head width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F_
from torch import Tensor

from patchpoint.models.families import Block

from .visit import Visit


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


def attend(
    block: Block, piece: Piece, qkv: tuple[Tensor, Tensor, Tensor], n_queries: int, visit: Visit, start: int
) -> Tensor:
    """Mixtures of values, [N, H, Q, K], of each unit's last `n_queries` tokens.

    `visit` sees the attention probabilities as rows [N * Q, H, T], numbered from `start`.
    """
    q_NQHK = qkv[0].view(piece.units, n_queries, *qkv[0].shape[1:])
    k_NTGK = _with_prefix(piece.k_prefix_NFGK, qkv[1].view(piece.units, piece.width, *qkv[1].shape[1:]))
    v_NTGK = _with_prefix(piece.v_prefix_NFGK, qkv[2].view(piece.units, piece.width, *qkv[2].shape[1:]))
    n_keys, n_heads = k_NTGK.shape[1], block.n_heads
    if k_NTGK.shape[2] != v_NTGK.shape[2]:
        k_NTGK, v_NTGK = per_head(k_NTGK, n_heads), per_head(v_NTGK, n_heads)
    mask = _mask(block, n_queries, n_keys, q_NQHK)
    q, k, v = q_NQHK.transpose(1, 2), k_NTGK.transpose(1, 2), v_NTGK.transpose(1, 2)
    if block.softcap is None and not visit.wants("pattern"):
        grouped = n_heads != k.shape[1]
        return F_.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=block.scale, enable_gqa=grouped)
    pattern_NHQT = _pattern(block, q, per_head(k, n_heads, 1), mask)
    if visit.wants("pattern"):
        rows = pattern_NHQT.transpose(1, 2).reshape(-1, n_heads, n_keys)
        visit("pattern", rows, start)
        pattern_NHQT = rows.view(piece.units, n_queries, n_heads, n_keys).transpose(1, 2)
    return pattern_NHQT @ per_head(v, n_heads, 1)


def per_head(x: Tensor, n_heads: int, axis: int = -2) -> Tensor:
    """Keys or values with one head per query head, from those of the key/value groups."""
    share = n_heads // x.shape[axis]
    return x if share == 1 else x.repeat_interleave(share, dim=axis)


def _with_prefix(prefix_NFGK: Tensor | None, own_NWGK: Tensor) -> Tensor:
    if prefix_NFGK is None:
        return own_NWGK
    most = max(prefix_NFGK.shape[2], own_NWGK.shape[2])
    return torch.cat((per_head(prefix_NFGK, most), per_head(own_NWGK, most)), dim=1)


def _mask(block: Block, n_queries: int, n_keys: int, like: Tensor) -> Tensor | None:
    """True where a query may look, or what is added to its scores; None when it may look everywhere alike."""
    window, slopes = block.window, block.slopes
    if n_queries == 1 and slopes is None and (window is None or n_keys <= window):
        return None
    key = torch.arange(n_keys, device=like.device)
    behind = key[n_keys - n_queries :, None] - key
    allowed = behind >= 0
    if window is not None:
        allowed &= behind < window
    if slopes is None:
        return allowed
    bias_HQT = (slopes.to(like.device)[:, None, None] * key).expand(-1, n_queries, -1)
    return bias_HQT.masked_fill(~allowed, float("-inf")).to(like.dtype)


def _pattern(block: Block, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    """Attention probabilities, [N, H, Q, T]."""
    scores = (q @ k.transpose(-1, -2)).mul_(block.scale)
    if block.softcap is not None:
        scores.div_(block.softcap).tanh_().mul_(block.softcap)
    if mask is not None:
        scores = scores.masked_fill_(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(dim=-1, dtype=torch.float32).to(q.dtype)
