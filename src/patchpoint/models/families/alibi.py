"""Attention with linear biases: scores that fall with distance, in place of positions in the stream."""

import torch
from jaxtyping import Float
from torch import Tensor


def alibi_slopes(n_heads: int) -> Float[Tensor, " head"]:
    """The score each head adds per token of the key's position, in float32. Press et al. 2022.

    2 ** (-8 i / n) for heads i = 1 ... n where n is a power of 2; else those of the power of 2 below n, then
    every other one of the power of 2 above.
    """
    whole = 1 << (n_heads.bit_length() - 1)
    exponents = [8 * i / whole for i in range(1, whole + 1)]
    exponents += [4 * i / whole for i in range(1, 2 * (n_heads - whole), 2)]
    return torch.exp2(-torch.tensor(exponents, dtype=torch.float32))
