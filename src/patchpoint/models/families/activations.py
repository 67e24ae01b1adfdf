"""Activation functions by PyTorch's fused kernels where they equal the Hugging Face module's formula."""

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import FastGELUActivation, NewGELUActivation, SiLUActivation


def activate(act: nn.Module, x: Tensor) -> Tensor:
    """act(x), for an x of any shape that the caller owns: x may be overwritten, so use only the result.

    The tanh form of GELU is written out in several passes there and is one kernel here.
    """
    if isinstance(act, NewGELUActivation | FastGELUActivation):
        return F.gelu(x, approximate="tanh")
    if isinstance(act, nn.SiLU | SiLUActivation):
        return F.silu(x, inplace=True)
    if isinstance(act, nn.ReLU):
        return F.relu(x, inplace=True)
    out: Tensor = act(x)
    return out
