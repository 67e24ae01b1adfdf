"""GLM (GLM-4-9B): Llama with partial pairwise rotation, biases on q/k/v, gate and up in one matrix."""

from transformers import PreTrainedModel

from .activations import activate, gated
from .adapter import Adapter, Heads, KVHeads, Neurons, Resid, Rotary
from .llama import LlamaAdapter, LlamaBlock
from .norms import rms_norm
from .rotation import rope_angles, rotate_pairs


class GlmBlock(LlamaBlock):
    """One GLM layer."""

    def finish_q(self, q: Heads, rotary: Rotary | None) -> Heads:
        """Partly rotated."""
        assert rotary is not None
        return rotate_pairs(q, rotary)

    def finish_k(self, k: KVHeads, rotary: Rotary | None) -> KVHeads:
        """Partly rotated."""
        assert rotary is not None
        return rotate_pairs(k, rotary)

    def mlp_post(self, resid: Resid) -> Neurons:
        """The gated neurons behind the MLP's norm, made within the fused buffer."""
        norm, mlp = self.layer.post_attention_layernorm, self.layer.mlp
        gate, up = mlp.gate_up_proj(rms_norm(resid, norm.weight, norm.variance_epsilon)).chunk(2, dim=-1)
        return gated(activate(mlp.activation_fn, gate), up)


class GlmAdapter(LlamaAdapter):
    """GLM, and the base of GLM-4."""

    block: type[GlmBlock] = GlmBlock

    def rotary(self, n_tokens: int) -> Rotary | None:
        """The model's own rotary table for this length, each angle standing for both dimensions of its pair."""
        halves = rope_angles(self.body.rotary_emb, self.model, n_tokens)
        cos, sin = (
            part.chunk(2, dim=-1)[0].repeat_interleave(2, dim=-1) for part in (halves.cos, halves.sin)
        )
        return Rotary(cos, sin)


def adapter(model: PreTrainedModel) -> Adapter:
    """The GLM adapter."""
    return GlmAdapter(model)


__all__ = ["GlmAdapter", "GlmBlock", "adapter"]
