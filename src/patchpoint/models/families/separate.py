"""The base of blocks whose queries, keys and values come from three linear modules."""

from .adapter import Block, Heads, HFModule, KVHeads, Resid, Rotary
from .head_maps import HeadMap, reading_heads


class SeparateBlock(Block):
    """A block whose attention module has `q_proj`, `k_proj` and `v_proj`."""

    attn: HFModule

    def qkv(self, attn_in: Resid, rotary: Rotary | None) -> tuple[Heads, KVHeads, KVHeads]:
        """Finished queries, keys and values."""
        return self.q(attn_in, rotary), *self.kv(attn_in, rotary)

    def q(self, attn_in: Resid, rotary: Rotary | None) -> Heads:
        """Queries alone."""
        return self.finish_q(self.attn.q_proj(attn_in).unflatten(-1, (self.n_heads, self.d_head)), rotary)

    def kv(self, attn_in: Resid, rotary: Rotary | None) -> tuple[KVHeads, KVHeads]:
        """Keys and values alone."""
        k = self.attn.k_proj(attn_in).unflatten(-1, (self.n_kv_heads, self.d_head))
        v = self.attn.v_proj(attn_in).unflatten(-1, (self.n_kv_heads, self.d_head))
        return self.finish_k(k, rotary), self.finish_v(v)

    def qkv_maps(self) -> tuple[HeadMap, HeadMap, HeadMap]:
        """The three modules head by head."""
        attn = self.attn
        return (
            reading_heads(attn.q_proj, self.n_heads),
            reading_heads(attn.k_proj, self.n_kv_heads),
            reading_heads(attn.v_proj, self.n_kv_heads),
        )
