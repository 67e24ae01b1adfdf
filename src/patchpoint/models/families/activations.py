"""Activation functions by PyTorch's fused kernels where they equal the Hugging Face module's formula."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import FastGELUActivation, NewGELUActivation, SiLUActivation
from transformers.models.bloom.modeling_bloom import BloomGelu

TANH_GELUS = (NewGELUActivation, FastGELUActivation, BloomGelu)


def activate(act: nn.Module, x: Tensor) -> Tensor:
    """act(x), for an x of any shape that the caller owns: x may be overwritten, so use only the result.

    The tanh form of GELU is written out in several passes there and is one kernel here.
    """
    own = not torch.is_grad_enabled()
    if isinstance(act, TANH_GELUS):
        return F.gelu(x, approximate="tanh")
    if isinstance(act, nn.SiLU | SiLUActivation):
        return F.silu(x, inplace=own)
    if isinstance(act, nn.ReLU):
        return F.relu(x, inplace=own)
    out: Tensor = act(x)
    return out


def gated(hidden: Tensor, up: Tensor) -> Tensor:
    """hidden * up, of one shape; within `hidden` where gradients are off, so use only the result."""
    return hidden * up if torch.is_grad_enabled() else hidden.mul_(up)
