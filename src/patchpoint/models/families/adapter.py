"""What the engine needs from an architecture: the pieces of a block, over Hugging Face's own weights.

All functions take packed rows: one row per token, of any mixture of prompts. Axes are named
row (tokens), head (query heads), kv_head, d_head, d_model, d_embed, vocab.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from .head_maps import HeadMap, writing_heads

Heads = Float[Tensor, "row head d_head"]
KVHeads = Float[Tensor, "row kv_head d_head"]
Resid = Float[Tensor, "row d_model"]
HeadResid = Float[Tensor, "row head d_model"]
Neurons = Float[Tensor, "row d_mlp"]
HFModule: TypeAlias = Any
"""A module of transformers: PyTorch types its submodules, weights and numbers all as Tensor | Module."""


@dataclass(frozen=True)
class Rotary:
    """Cosines and sines of rotary position embeddings, one row per token, as wide as the family rotates."""

    cos: Float[Tensor, "row d_rotary"]
    sin: Float[Tensor, "row d_rotary"]

    def at(self, rows: Int[Tensor, " row"]) -> "Rotary":
        """The angles of chosen rows."""
        return Rotary(self.cos.index_select(0, rows), self.sin.index_select(0, rows))

    def between(self, start: int, stop: int) -> "Rotary":
        """The angles of consecutive rows."""
        return Rotary(self.cos[start:stop], self.sin[start:stop])

    def repeat(self, times: int) -> "Rotary":
        """The angles of every row `times` times in a row."""
        return Rotary(self.cos.repeat_interleave(times, 0), self.sin.repeat_interleave(times, 0))

    @staticmethod
    def beside(parts: "Sequence[Rotary]") -> "Rotary":
        """Several kinds of angles of the same rows, one after the other in each row."""
        return Rotary(
            torch.cat([part.cos for part in parts], dim=1), torch.cat([part.sin for part in parts], dim=1)
        )

    @staticmethod
    def cat(parts: "Sequence[Rotary]") -> "Rotary":
        """The angles of several prompts, packed."""
        return Rotary(torch.cat([part.cos for part in parts]), torch.cat([part.sin for part in parts]))


class Block(ABC):
    """One layer: what attention and the MLP read, and what each adds to the residual stream.

    With gradients on, all functions pass them to what they read; with gradients off they save buffers.
    """

    layer: HFModule
    """The Hugging Face module whose weights these are."""
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_mlp: int | None
    """Neurons of the MLP; None: experts share its work, and there is no `mlp_post` and no `mlp_down`."""
    scale: float
    """Factor on query-key products."""
    slopes: Float[Tensor, " head"] | None = None
    """ALiBi: head h adds slopes[h] * (position of the key) to its scaled scores; None: it adds nothing.

    On the CPU in float32 wherever the weights are."""
    parallel: bool = False
    """True: the MLP reads the block's input; False: it reads the stream after attention (`resid_mid`)."""
    window: int | None = None
    """Number of tokens, itself included, that a token attends to; None: all before it."""
    softcap: float | None = None
    """Attention scores s become softcap * tanh(s / softcap)."""

    @abstractmethod
    def attn_in(self, resid: Resid) -> Resid:
        """The residual stream as attention reads it: after its norm."""

    @abstractmethod
    def qkv(self, attn_in: Resid, rotary: Rotary | None) -> tuple[Heads, KVHeads, KVHeads]:
        """Queries, keys and values, the first two with positions rotated in."""

    def q(self, attn_in: Resid, rotary: Rotary | None) -> Heads:
        """Queries alone."""
        return self.qkv(attn_in, rotary)[0]

    def kv(self, attn_in: Resid, rotary: Rotary | None) -> tuple[KVHeads, KVHeads]:
        """Keys and values alone."""
        _, k, v = self.qkv(attn_in, rotary)
        return k, v

    @abstractmethod
    def qkv_maps(self) -> tuple[HeadMap, HeadMap, HeadMap]:
        """The projections of `qkv` head by head, as views of its weights: queries, keys and values."""

    def finish_q(self, q: Heads, rotary: Rotary | None) -> Heads:
        """Queries from their projection: norms and rotation, where the family has them."""
        return q

    def finish_k(self, k: KVHeads, rotary: Rotary | None) -> KVHeads:
        """Keys from their projection, as `finish_q`."""
        return k

    def finish_v(self, v: KVHeads) -> KVHeads:
        """Values from their projection: themselves in nearly all families."""
        return v

    def port_q(self, x: HeadResid, rotary: Rotary | None) -> Heads:
        """Queries when head h reads its own copy x[:, h] of the residual stream, before the norm."""
        return self.finish_q(self.qkv_maps()[0](self._heads_in(x)), rotary)

    def port_k(self, x: HeadResid, rotary: Rotary | None) -> Heads:
        """Keys per query head, as `port_q`: head h uses the projection of its key/value group."""
        angles = None if rotary is None else rotary.repeat(self.n_heads // self.n_kv_heads)
        k = self.qkv_maps()[1](self._members_as_rows(self._heads_in(x)))
        return self._members_as_heads(self.finish_k(k, angles))

    def port_v(self, x: HeadResid) -> Heads:
        """Values per query head, as `port_k`."""
        v = self.qkv_maps()[2](self._members_as_rows(self._heads_in(x)))
        return self._members_as_heads(self.finish_v(v))

    def _heads_in(self, x: HeadResid) -> HeadResid:
        return self.attn_in(x.flatten(0, 1)).view(x.shape)

    def _members_as_rows(self, x: HeadResid) -> Float[Tensor, "row_member kv_head d_model"]:
        grouped = x.view(len(x), self.n_kv_heads, -1, x.shape[-1])
        return grouped.transpose(1, 2).flatten(0, 1)

    def _members_as_heads(self, x: Float[Tensor, "row_member kv_head d_head"]) -> Heads:
        grouped = x.reshape(-1, self.n_heads // self.n_kv_heads, self.n_kv_heads, x.shape[-1])
        return grouped.transpose(1, 2).flatten(1, 2)

    @property
    @abstractmethod
    def out_proj(self) -> HFModule:
        """The linear module from the heads' mixtures of values to the stream."""

    def attn_out(self, z: Heads) -> Resid:
        """What attention adds to the residual stream: output projection, bias and any norm behind it."""
        out: Tensor = self.out_proj(z.flatten(-2))
        return out

    def heads_out(self, z: Heads) -> HeadResid:
        """What each head adds to the stream.

        Their sum and what the output projection's bias adds are attn_out(z). A norm behind attention divides
        each head's share by the size of the whole sum.
        """
        return writing_heads(self.out_proj, self.n_heads)(z)

    @abstractmethod
    def mlp_post(self, resid: Resid) -> Neurons:
        """The MLP's neurons after their activation (and gate), from the stream before the MLP's norm."""

    @abstractmethod
    def mlp_down(self, mlp_post: Neurons) -> Resid:
        """What neurons add to the residual stream: down projection, bias and any norm behind it."""

    def mlp_out(self, resid: Resid) -> Resid:
        """What the MLP adds to the residual stream, its own norms included."""
        return self.mlp_down(self.mlp_post(resid))


class Adapter(ABC):
    """One loaded architecture. Positions count from 0 within each prompt."""

    model: PreTrainedModel
    blocks: tuple[Block, ...]
    d_model: int
    d_vocab: int
    max_tokens: int | None
    """Longest prompt the position embeddings allow; None: no limit of its own."""

    @abstractmethod
    def embed(self, ids: Int[Tensor, " row"]) -> Float[Tensor, "row d_embed"]:
        """The embedding module's output: where causal tracing adds its noise, before positions."""

    @abstractmethod
    def resid_pre(self, embed: Float[Tensor, "row d_embed"], positions: Int[Tensor, " row"]) -> Resid:
        """What block 0 reads: embeddings with positions, scale or projection where the family has them.

        Never the same storage as `embed`.
        """

    @abstractmethod
    def rotary(self, n_tokens: int) -> Rotary | None:
        """Angles of a prompt of `n_tokens` tokens (some rope kinds depend on that length), or None."""

    @abstractmethod
    def final(self, resid: Resid) -> Float[Tensor, "row d_final"]:
        """The stream after the final norm: what the unembedding reads."""

    @property
    def final_softcap(self) -> float | None:
        """Logits x become cap * tanh(x / cap); None: they stay."""
        return None

    def unembed(
        self,
        final: Float[Tensor, "row d_final"],
        vocab: slice | Int[Tensor, " chosen"],
        out: Float[Tensor, "row chosen"] | None = None,
    ) -> Float[Tensor, "row chosen"]:
        """Logits of chosen vocabulary entries, bias and soft-cap included; written to `out` where given."""
        head = self.model.lm_head
        weight, bias = head.weight[vocab], None if head.bias is None else head.bias[vocab]
        plain = bias is None and self.final_softcap is None
        if out is not None and plain and out.dtype == final.dtype:
            return torch.mm(final, weight.T, out=out)
        logits = F.linear(final, weight, bias)
        if self.final_softcap is not None:
            logits = softcapped(logits, self.final_softcap)
        return logits if out is None else out.copy_(logits)


def softcapped(x: Float[Tensor, "*any"], cap: float) -> Float[Tensor, "*any"]:
    """cap * tanh(x / cap); within x where gradients are off, so use only the result."""
    if torch.is_grad_enabled():
        return torch.tanh(x / cap) * cap
    return x.div_(cap).tanh_().mul_(cap)


def positions_of(n_tokens: int, model: PreTrainedModel) -> Int[Tensor, "1 token"]:
    """Natural positions 0 ... n_tokens - 1 on the model's device, as one prompt."""
    return torch.arange(n_tokens, device=model.device)[None]
