"""Qwen3: Qwen2 with RMS norms on each head's queries and keys before rotation."""

from transformers import PreTrainedModel

from .adapter import Adapter, Heads, KVHeads, Rotary
from .norms import rms_norm
from .qwen2 import Qwen2Adapter, Qwen2Block


class Qwen3Block(Qwen2Block):
    """One Qwen3 layer."""

    def finish_q(self, q: Heads, rotary: Rotary | None) -> Heads:
        """Normed head by head and rotated."""
        norm = self.attn.q_norm
        return super().finish_q(rms_norm(q, norm.weight, norm.variance_epsilon), rotary)

    def finish_k(self, k: KVHeads, rotary: Rotary | None) -> KVHeads:
        """Normed head by head and rotated."""
        norm = self.attn.k_norm
        return super().finish_k(rms_norm(k, norm.weight, norm.variance_epsilon), rotary)


class Qwen3Adapter(Qwen2Adapter):
    """Qwen3."""

    block = Qwen3Block


def adapter(model: PreTrainedModel) -> Adapter:
    """The Qwen3 adapter."""
    return Qwen3Adapter(model)
