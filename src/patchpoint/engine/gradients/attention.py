"""Attention of whole prompts for autograd: nothing in place, a key and a value per query head.

Axes: N prompts of a piece, W tokens of each, H heads, K head width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from patchpoint.engine.attention import Piece
from patchpoint.models.families import Block

Heads = Float[Tensor, "row head d_head"]


def mixed_values(block: Block, qkv: tuple[Heads, Heads, Heads], pieces: Sequence[Piece]) -> Heads:
    """Each head's mixture of values over its own prompt's earlier tokens, for the rows of whole prompts."""
    n_rows = [piece.units * piece.width for piece in pieces]
    parts = []
    for piece, *rows in zip(pieces, *(torch.split(x, n_rows) for x in qkv), strict=True):
        q, k, v = (x.unflatten(0, (piece.units, piece.width)).transpose(1, 2) for x in rows)
        parts.append(_attend(block, q, k, v).transpose(1, 2).flatten(0, 1))
    return torch.cat(parts)


def _attend(block: Block, q_NHWK: Tensor, k_NHWK: Tensor, v_NHWK: Tensor) -> Tensor:
    if block.softcap is None:
        mask = _added_to_scores(block, q_NHWK)
        return F.scaled_dot_product_attention(q_NHWK, k_NHWK, v_NHWK, attn_mask=mask, scale=block.scale)
    scores = q_NHWK @ k_NHWK.transpose(-1, -2) * block.scale
    scores = block.softcap * torch.tanh(scores / block.softcap) + _added_to_scores(block, q_NHWK)
    return (
        scores.softmax(dim=-1, dtype=torch.promote_types(q_NHWK.dtype, torch.float32)).to(q_NHWK.dtype)
        @ v_NHWK
    )


def _added_to_scores(block: Block, like_NHWK: Tensor) -> Float[Tensor, "head_or_1 query key"]:
    """Minus infinity where a token may not look, ALiBi's slopes times the key's position elsewhere."""
    token = torch.arange(like_NHWK.shape[2], device=like_NHWK.device)
    behind = token[:, None] - token
    unseen = behind < 0
    if block.window is not None:
        unseen = unseen | (behind >= block.window)
    added = torch.zeros(1, *behind.shape, device=like_NHWK.device)
    if block.slopes is not None:
        added = (block.slopes.to(token.device)[:, None, None] * token).expand(-1, len(token), -1)
    return added.masked_fill(unseen, -torch.inf).to(like_NHWK.dtype)
