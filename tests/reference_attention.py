"""Attention of the untouched Hugging Face model, opened: queries, keys, values and probabilities seen and changed.

`visit(component, heads)` is given heads of shape [batch, head, token, width] and returns what is to be used instead.
Most families call attention through transformers' own table, in which a plain function takes its place meanwhile;
the rest is opened at the place where each of them computes it.
"""

from contextlib import ExitStack, contextmanager
from functools import partial
from unittest import mock

import torch
import torch.nn.functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def attend(visit, q, k, v, probabilities):
    """[batch, head, token, d_head]; keys and values are given one per key/value head, then one per query head."""
    q, k, v = visit("q", q), visit("k", k), visit("v", v)
    sharing = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(sharing, dim=1), v.repeat_interleave(sharing, dim=1)
    q, k, v = visit("head_q", q), visit("head_k", k), visit("head_v", v)
    return visit("pattern", probabilities(q, k)) @ v


def plain_probabilities(q, k, mask=None, scaling=None, softcap=None):
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1)


@contextmanager
def through_the_interface(hf, visit):
    def plain(module, q, k, v, mask, scaling=None, softcap=None, **unused):
        assert not unused.get("dropout")
        if hf.config.model_type == "opt":  # which scales its queries already, where others scale the scores
            q, scaling = q / module.scaling, module.scaling
        out = attend(
            visit, q, k, v, partial(plain_probabilities, mask=mask, scaling=scaling, softcap=softcap)
        )
        return out.transpose(1, 2), None

    before = hf.config._attn_implementation
    hf.config._attn_implementation = "eager"
    ALL_ATTENTION_FUNCTIONS["eager"] = plain
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS["eager"]
        hf.config._attn_implementation = before


@contextmanager
def through_its_method(hf, visit):
    """Families with a method `_attn` that returns the mixture of values and the probabilities."""
    modules = [module for module in hf.modules() if hasattr(module, "_attn")]
    for module in modules:

        def opened(q, k, v, mask=None, own=module._attn):
            out = attend(visit, q, k, v, lambda q, k: own(q, k, v, mask)[1])
            return out, None

        module._attn = opened
    try:
        yield
    finally:
        for module in modules:
            del module._attn


@contextmanager
def through_sdpa(hf, visit):
    """Falcon calls PyTorch's function, with keys and values already one per query head where groups share them."""

    def opened(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False):
        assert dropout_p == 0.0
        if hf.config.new_decoder_architecture:
            sharing = q.shape[1] // hf.config.num_kv_heads
            k, v = k[:, ::sharing], v[:, ::sharing]
        if is_causal:
            attn_mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
        return attend(visit, q, k, v, partial(plain_probabilities, mask=attn_mask))

    assert hf.config._attn_implementation == "sdpa"
    with mock.patch.object(F, "scaled_dot_product_attention", opened):
        yield


@contextmanager
def through_projection_and_softmax(hf, visit):
    """Families without rotation: queries, keys and values are what their fused projection gives."""
    name, axis = {"bloom": ("query_key_value", -2), "mpt": ("Wqkv", -3)}[hf.config.model_type]
    n_heads = hf.config.num_attention_heads

    clip = hf.config.attn_config.clip_qkv if hf.config.model_type == "mpt" else None

    def change(module, args, output):
        fused = (n_heads, 3, -1) if axis == -2 else (3, n_heads, -1)
        parts = (output.clamp(-clip, clip) if clip else output).unflatten(-1, fused).unbind(axis)
        q, k, v = (part.transpose(1, 2) for part in parts)
        q, k, v = (
            visit("head_q", visit("q", q)),
            visit("head_k", visit("k", k)),
            visit("head_v", visit("v", v)),
        )
        return torch.stack([part.transpose(1, 2) for part in (q, k, v)], dim=axis).flatten(2)

    softmax = F.softmax
    with ExitStack() as stack:
        for attn in [module for module in hf.modules() if hasattr(module, name)]:
            stack.callback(getattr(attn, name).register_forward_hook(change).remove)
            if clip:  # An edit is not clipped again.
                stack.enter_context(mock.patch.object(attn, "clip_qkv", None))
        stack.enter_context(
            mock.patch.object(F, "softmax", lambda *args, **more: visit("pattern", softmax(*args, **more)))
        )
        yield


OPENED = {
    "gptj": through_its_method,
    "gpt_neo": through_its_method,
    "codegen": through_its_method,
    "falcon": through_sdpa,
    "bloom": through_projection_and_softmax,
    "mpt": through_projection_and_softmax,
}


def opened(hf, visit):
    """A context in which every layer's attention calls `visit`; afterwards the model is as it was."""
    return OPENED.get(hf.config.model_type, through_the_interface)(hf, visit)
