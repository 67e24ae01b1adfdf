"""The two ways families rotate positions into queries and keys."""

import torch
from jaxtyping import Float
from torch import Tensor

from .adapter import Rotary


def rotate_halves(x: Float[Tensor, "row any_head d_head"], rotary: Rotary) -> Float[Tensor, "row any_head d_head"]:
    """Pairs dimension i with i + d/2, as Llama and GPT-NeoX do; dimensions beyond the angles pass unrotated."""
    cos, sin = rotary.cos[:, None, :], rotary.sin[:, None, :]
    width = cos.shape[-1]
    turned = x[..., :width]
    low, high = turned[..., : width // 2], turned[..., width // 2 :]
    out = torch.cat((-high, low), dim=-1).mul_(sin).addcmul_(turned, cos)
    return out if width == x.shape[-1] else torch.cat((out, x[..., width:]), dim=-1)


def rotate_pairs(x: Float[Tensor, "row any_head d_head"], rotary: Rotary) -> Float[Tensor, "row any_head d_head"]:
    """Pairs dimension 2i with 2i + 1, as GPT-J does; angles repeat for both of a pair."""
    cos, sin = rotary.cos[:, None, :], rotary.sin[:, None, :]
    width = cos.shape[-1]
    turned = x[..., :width]
    swapped = torch.stack((-turned[..., 1::2], turned[..., 0::2]), dim=-1).flatten(-2)
    out = swapped.mul_(sin).addcmul_(turned, cos)
    return out if width == x.shape[-1] else torch.cat((out, x[..., width:]), dim=-1)
