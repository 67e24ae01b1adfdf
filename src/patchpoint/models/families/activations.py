"""Activation functions by PyTorch's fused kernels where they equal the Hugging Face module's formula."""

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import FastGELUActivation, NewGELUActivation


def activate(act: nn.Module, x: Tensor) -> Tensor:
    """act(x). The tanh form of GELU is written out in several passes there and is one kernel here."""
    if isinstance(act, NewGELUActivation | FastGELUActivation):
        return F.gelu(x, approximate="tanh")
    out: Tensor = act(x)
    return out
