"""Root-mean-square norm in few passes over memory."""

import torch
from jaxtyping import Float
from torch import Tensor


def rms_norm(x: Float[Tensor, "*row d"], weight: Float[Tensor, " d"], eps: float) -> Float[Tensor, "*row d"]:
    """x / sqrt(mean(x^2) + eps) * weight, statistics and division in float32. Zhang & Sennrich 2019."""
    wide = x.float()
    if torch.is_grad_enabled():
        normed: Tensor = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
        out: Tensor = (normed if normed.dtype == weight.dtype else normed.to(x.dtype)) * weight
        return out
    length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    normed = wide * length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return (normed if normed.dtype == weight.dtype else normed.to(x.dtype)).mul_(weight)


def rms_shares(
    parts: Float[Tensor, "row part d"],
    total: Float[Tensor, "row d"],
    weight: Float[Tensor, " d"],
    eps: float,
) -> Float[Tensor, "row part d"]:
    """Each part of a sum as the norm of that whole sum leaves it: they add up to its `rms_norm`."""
    size = torch.rsqrt(total.float().square().mean(dim=-1, keepdim=True) + eps)
    return (parts.float() * (size * weight.float())[:, None]).to(parts.dtype)
