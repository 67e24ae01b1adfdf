"""A whole forward pass over the adapter interface only, packed and with attention written out, and its twin."""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from families import FAMILY_NAMES, VARIANTS, VOCAB, variant
from patchpoint.models.families import Adapter, Block, Rotary

NAMES = (*FAMILY_NAMES, *VARIANTS)
LENGTHS = (1, 5, 11)


class Run(NamedTuple):
    logits: Tensor
    streams: list[Tensor]
    """The residual stream before block 0 and after each block."""
    mlp_reads: list[Tensor]
    """The stream that each block's MLP reads."""


def attend(block: Block, q: Tensor, k: Tensor, v: Tensor, prompt_of: Tensor, positions: Tensor) -> Tensor:
    group = block.n_heads // block.n_kv_heads
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    scores = torch.einsum("qhd,khd->hqk", q.float(), k.float()) * block.scale
    if block.softcap is not None:
        scores = block.softcap * torch.tanh(scores / block.softcap)
    if block.slopes is not None:
        scores = scores + block.slopes[:, None, None] * positions
    back = positions[:, None] - positions[None, :]
    seen = (prompt_of[:, None] == prompt_of[None, :]) & (back >= 0)
    if block.window is not None:
        seen &= back < block.window
    pattern = scores.masked_fill(~seen, -torch.inf).softmax(-1).to(v.dtype)
    return torch.einsum("hqk,khd->qhd", pattern, v)


def rotary_of(adapter: Adapter, lengths: tuple[int, ...]) -> Rotary | None:
    angles = [part for part in map(adapter.rotary, lengths) if part is not None]
    return Rotary.cat(angles) if angles else None


@torch.no_grad()
def packed_run(adapter: Adapter, prompts: list[Tensor]) -> Run:
    return packed_from(adapter, adapter.embed(torch.cat(prompts)), tuple(map(len, prompts)))


def packed_from(adapter: Adapter, embed: Tensor, lengths: tuple[int, ...]) -> Run:
    positions = torch.cat([torch.arange(length) for length in lengths])
    prompt_of = torch.cat([torch.full((length,), index) for index, length in enumerate(lengths)])
    rotary = rotary_of(adapter, lengths)
    resid = adapter.resid_pre(embed, positions)
    assert resid.data_ptr() != embed.data_ptr()
    streams, mlp_reads = [resid], []
    for block in adapter.blocks:
        q, k, v = block.qkv(block.attn_in(resid), rotary)
        assert q.shape[1:] == (block.n_heads, block.d_head)
        assert k.shape[1:] == v.shape[1:] == (block.n_kv_heads, block.d_head)
        mid = resid + block.attn_out(attend(block, q, k, v, prompt_of, positions))
        mlp_reads.append(resid if block.parallel else mid)
        streams.append(mid + block.mlp_out(mlp_reads[-1]))
        assert resid._version == mid._version == 0, "a block wrote into the stream it was given"
        resid = streams[-1]
    final = adapter.final(resid)
    logits = adapter.unembed(final, slice(None))
    assert embed._version == resid._version == 0
    return Run(logits, streams, mlp_reads)


def prompts_of(*lengths: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(3, VOCAB, (length,), generator=generator) for length in lengths]


@cache
def model_of(name: str) -> PreTrainedModel:
    return variant(name)


@torch.no_grad()
def hf_alone(model: PreTrainedModel, ids: Tensor) -> Tensor:
    return model(ids[None], use_cache=False).logits[0]


def worst(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return (ours - theirs).abs().max().item()
