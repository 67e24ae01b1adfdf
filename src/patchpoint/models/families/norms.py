"""Root-mean-square norm in few passes over memory."""

import torch
from jaxtyping import Float
from torch import Tensor


def rms_norm(x: Float[Tensor, "*row d"], weight: Float[Tensor, " d"], eps: float) -> Float[Tensor, "*row d"]:
    """x / sqrt(mean(x^2) + eps) * weight, statistics and division in float32. Zhang & Sennrich 2019."""
    wide = x.float()
    length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    normed: Tensor = wide * length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return (normed if normed.dtype == weight.dtype else normed.to(x.dtype)).mul_(weight)
