"""The base of blocks whose queries, keys and values come from one linear module."""

from abc import abstractmethod

from jaxtyping import Float
from torch import Tensor

from .adapter import Block, Heads, HFModule, KVHeads, Resid, Rotary
from .head_maps import HeadMap, in_out, split_heads

Parts = tuple[
    Float[Tensor, "*row head d_head"],
    Float[Tensor, "*row kv_head d_head"],
    Float[Tensor, "*row kv_head d_head"],
]


class FusedBlock(Block):
    """A block that says which module projects and how its outputs are laid out."""

    @property
    @abstractmethod
    def qkv_proj(self) -> HFModule:
        """The linear module that makes queries, keys and values."""

    @abstractmethod
    def parts(self, fused: Float[Tensor, "*row d_fused"]) -> Parts:
        """Queries, keys and values out of the module's outputs, or out of weights or biases laid out so."""

    def qkv(self, attn_in: Resid, rotary: Rotary | None) -> tuple[Heads, KVHeads, KVHeads]:
        """Finished queries, keys and values."""
        q, k, v = self.parts(self.qkv_proj(attn_in))
        return self.finish_q(q, rotary), self.finish_k(k, rotary), self.finish_v(v)

    def q(self, attn_in: Resid, rotary: Rotary | None) -> Heads:
        """Queries alone."""
        return self.finish_q(self.parts(self.qkv_proj(attn_in))[0], rotary)

    def kv(self, attn_in: Resid, rotary: Rotary | None) -> tuple[KVHeads, KVHeads]:
        """Keys and values alone."""
        _, k, v = self.parts(self.qkv_proj(attn_in))
        return self.finish_k(k, rotary), self.finish_v(v)

    def qkv_maps(self) -> tuple[HeadMap, HeadMap, HeadMap]:
        """The module head by head."""
        bias = self.qkv_proj.bias
        biases = (None, None, None) if bias is None else self.parts(bias)
        q, k, v = map(split_heads, self.parts(in_out(self.qkv_proj)), biases)
        return q, k, v


def triples(fused: Float[Tensor, "*row d_fused"], n_heads: int) -> Parts:
    """Outputs that hold q, k and v of head 0, then of head 1, and so on."""
    q, k, v = fused.view(*fused.shape[:-1], n_heads, 3, -1).unbind(-2)
    return q, k, v


def in_turn(fused: Float[Tensor, "*row d_fused"], n_heads: int, n_kv_heads: int) -> Parts:
    """Outputs that hold all queries, then all keys, then all values."""
    heads = [n_heads, n_kv_heads, n_kv_heads]
    q, k, v = fused.view(*fused.shape[:-1], sum(heads), -1).split_with_sizes(heads, dim=-2)
    return q, k, v
