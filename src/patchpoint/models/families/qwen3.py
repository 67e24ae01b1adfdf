"""Qwen3: Qwen2 with RMS norms on each head's queries and keys before rotation."""

from transformers import PreTrainedModel

from .adapter import Adapter, Heads, KVHeads, Resid, Rotary
from .norms import rms_norm
from .qwen2 import Qwen2Adapter, Qwen2Block
from .rotation import rotate_halves


class Qwen3Block(Qwen2Block):
    """One Qwen3 layer."""

    def qkv(self, attn_in: Resid, rotary: Rotary | None) -> tuple[Heads, KVHeads, KVHeads]:
        """Normed and rotated queries and keys, and values."""
        assert rotary is not None
        attn = self.attn
        q = attn.q_proj(attn_in).unflatten(-1, (self.n_heads, self.d_head))
        k = attn.k_proj(attn_in).unflatten(-1, (self.n_kv_heads, self.d_head))
        v = attn.v_proj(attn_in).unflatten(-1, (self.n_kv_heads, self.d_head))
        q = rms_norm(q, attn.q_norm.weight, attn.q_norm.variance_epsilon)
        k = rms_norm(k, attn.k_norm.weight, attn.k_norm.variance_epsilon)
        return rotate_halves(q, rotary), rotate_halves(k, rotary), v


class Qwen3Adapter(Qwen2Adapter):
    """Qwen3."""

    block = Qwen3Block


def adapter(model: PreTrainedModel) -> Adapter:
    """The Qwen3 adapter."""
    return Qwen3Adapter(model)
