"""Rotary positions: the angles of a prompt, and the two ways families rotate them into queries and keys."""

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from .adapter import HFModule, Rotary, positions_of

LENGTH_DEPENDENT = ("dynamic", "longrope")
"""Rope types whose angles depend on the prompt's length; the Hugging Face module recalls earlier lengths."""


def rope_angles(module: HFModule, model: PreTrainedModel, n_tokens: int) -> Rotary:
    """Angles of a prompt of `n_tokens` tokens by a model's own rotary module, as a fresh model gives them.

    Shape (n_tokens, d_rotary), in the model's dtype or, where the family keeps it, float32. The answer does
    not depend on lengths that the module has seen before, and the module is left as it was.
    """
    if module.rope_type in LENGTH_DEPENDENT:
        module = _unused(module)
    cos, sin = module(model.get_input_embeddings().weight, positions_of(n_tokens, model))
    return Rotary(cos[0], sin[0])


def _unused(module: HFModule) -> HFModule:
    """The same module before any prompt: once grown for a long one it keeps those angles for shorter ones."""
    fresh = type(module)(module.config)
    fresh.original_inv_freq = module.original_inv_freq
    fresh.inv_freq = module.original_inv_freq.clone()
    return fresh


def rope_reach(config: PreTrainedConfig) -> int:
    """Longest prompt, in tokens, that the rope settings of a config are made for.

    Not `max_position_embeddings` alone: many configs with a scaling factor keep the unscaled length there.
    """
    rope = config.rope_parameters
    unscaled = rope.get("original_max_position_embeddings") or config.max_position_embeddings
    reach: int = max(config.max_position_embeddings, int(unscaled * (rope.get("factor") or 1)))
    return reach


def rotate_halves(
    x: Float[Tensor, "row any_head d_head"], rotary: Rotary
) -> Float[Tensor, "row any_head d_head"]:
    """Pairs dimension i with i + d/2, as Llama and GPT-NeoX do; those beyond the angles pass unrotated."""
    cos, sin = rotary.cos[:, None, :], rotary.sin[:, None, :]
    width = cos.shape[-1]
    turned = x[..., :width]
    low, high = turned[..., : width // 2], turned[..., width // 2 :]
    out = _turned(turned, cos, torch.cat((-high, low), dim=-1), sin)
    return out if width == x.shape[-1] else torch.cat((out, x[..., width:]), dim=-1)


def rotate_halves_wide(
    x: Float[Tensor, "row any_head d_head"], rotary: Rotary
) -> Float[Tensor, "row any_head d_head"]:
    """As `rotate_halves`, computed in the angles' dtype and given back in that of `x`, as OLMo does."""
    return rotate_halves(x.to(rotary.cos.dtype), rotary).to(x.dtype)


def rotate_pairs(
    x: Float[Tensor, "row any_head d_head"], rotary: Rotary
) -> Float[Tensor, "row any_head d_head"]:
    """Pairs dimension 2i with 2i + 1, as GPT-J does; angles repeat for both of a pair."""
    cos, sin = rotary.cos[:, None, :], rotary.sin[:, None, :]
    width = cos.shape[-1]
    turned = x[..., :width]
    swapped = torch.stack((-turned[..., 1::2], turned[..., 0::2]), dim=-1).flatten(-2)
    out = _turned(turned, cos, swapped, sin)
    return out if width == x.shape[-1] else torch.cat((out, x[..., width:]), dim=-1)


def _turned(x: Tensor, cos: Tensor, across: Tensor, sin: Tensor) -> Tensor:
    """x * cos + across * sin, of one shape; within `across` where gradients are off."""
    if torch.is_grad_enabled():
        return x * cos + across * sin
    return across.mul_(sin).addcmul_(x, cos)
