"""CodeGen: GPT-J with q/k/v in one matrix, in the order of the machine that it was trained on."""

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from .adapter import Adapter, Heads, HFModule, KVHeads, Rotary
from .fused import FusedBlock, Parts
from .gptj import GPTJAdapter, GPTJBlock
from .rotation import rotate_pairs

SHARDS = 4
"""The fused projection was cut into this many pieces, each with queries, values and keys of its heads."""


class CodeGenBlock(FusedBlock, GPTJBlock):
    """One CodeGen layer."""

    @property
    def qkv_proj(self) -> HFModule:
        """Queries, keys and values in one."""
        return self.attn.qkv_proj

    def parts(self, fused: Float[Tensor, "*row d_fused"]) -> Parts:
        """In each shard all queries of its heads, then all values, then all keys."""
        shards = fused.view(*fused.shape[:-1], SHARDS, 3, self.n_heads // SHARDS, self.d_head)
        q, v, k = (part.flatten(-3, -2) for part in shards.unbind(-3))
        return q, k, v

    def finish_q(self, q: Heads, rotary: Rotary | None) -> Heads:
        """Partly rotated in the table's dtype."""
        assert rotary is not None
        return rotate_pairs(q.to(rotary.cos.dtype), rotary).to(q.dtype)

    def finish_k(self, k: KVHeads, rotary: Rotary | None) -> KVHeads:
        """As `finish_q`."""
        assert rotary is not None
        return rotate_pairs(k.to(rotary.cos.dtype), rotary).to(k.dtype)


class CodeGenAdapter(GPTJAdapter):
    """CodeGen."""

    block = CodeGenBlock

    def rotary(self, n_tokens: int) -> Rotary | None:
        """The first layer's table, equal in all layers; each angle stands for both dimensions of its pair."""
        table = self.body.h[0].attn.embed_positions[:n_tokens].to(self.body.wte.weight.device)
        sin, cos = table.repeat_interleave(2, dim=-1).chunk(2, dim=-1)
        return Rotary(cos, sin)


def adapter(model: PreTrainedModel) -> Adapter:
    """The CodeGen adapter."""
    return CodeGenAdapter(model)
