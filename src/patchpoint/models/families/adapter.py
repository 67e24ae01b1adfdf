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

Heads = Float[Tensor, "row head d_head"]
KVHeads = Float[Tensor, "row kv_head d_head"]
Resid = Float[Tensor, "row d_model"]
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

    @staticmethod
    def cat(parts: "Sequence[Rotary]") -> "Rotary":
        """The angles of several prompts, packed."""
        return Rotary(torch.cat([part.cos for part in parts]), torch.cat([part.sin for part in parts]))


class Block(ABC):
    """One layer: what attention and the MLP read, and what each adds to the residual stream."""

    layer: HFModule
    """The Hugging Face module whose weights these are."""
    n_heads: int
    n_kv_heads: int
    d_head: int
    scale: float
    """Factor on query-key products."""
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
    def attn_out(self, z: Heads) -> Resid:
        """What attention adds to the residual stream: output projection, bias and any norm behind it."""

    @abstractmethod
    def mlp_out(self, resid: Resid) -> Resid:
        """What the MLP adds to the residual stream, its own norms included."""


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
            logits.div_(self.final_softcap).tanh_().mul_(self.final_softcap)
        return logits if out is None else out.copy_(logits)


def positions_of(n_tokens: int, model: PreTrainedModel) -> Int[Tensor, "1 token"]:
    """Natural positions 0 ... n_tokens - 1 on the model's device, as one prompt."""
    return torch.arange(n_tokens, device=model.device)[None]
