"""One linear map per head, as views of the weights that Hugging Face keeps for all heads together."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True)
class HeadMap:
    """A linear map for each head, applied by each head to its own row of numbers."""

    weight: Float[Tensor, "any_head d_in d_out"]
    bias: Float[Tensor, "any_head d_out"] | None = None

    def __call__(self, x: Float[Tensor, "row any_head d_in"]) -> Float[Tensor, "row any_head d_out"]:
        """Each head's map of what that head reads."""
        out = torch.bmm(x.transpose(0, 1), self.weight).transpose(0, 1)
        return out if self.bias is None else out + self.bias


def in_out(linear: nn.Linear | Conv1D) -> Float[Tensor, "d_in d_out"]:
    """The matrix of a linear module, input axis first, whichever way the module stores it."""
    weight: Tensor = linear.weight
    return weight if isinstance(linear, Conv1D) else weight.T


def reading_heads(linear: nn.Linear | Conv1D, n_heads: int) -> HeadMap:
    """The maps from d_model to d_head of a projection that makes all heads' queries, keys or values."""
    weight = in_out(linear)
    bias = None if linear.bias is None else linear.bias.view(n_heads, -1)
    return split_heads(weight.view(len(weight), n_heads, -1), bias)


def split_heads(
    weight: Float[Tensor, "d_in any_head d_out"], bias: Float[Tensor, "any_head d_out"] | None
) -> HeadMap:
    """The maps of heads that lie side by side in a weight."""
    return HeadMap(weight.transpose(0, 1), bias)


def writing_heads(linear: nn.Linear | Conv1D, n_heads: int) -> HeadMap:
    """The maps from d_head to d_model of an output projection; its bias belongs to no head."""
    weight = in_out(linear)
    return HeadMap(weight.view(n_heads, -1, weight.shape[-1]))
