"""EXAONE 4: Qwen3's normed queries and keys, norms behind attention and MLP only, positions in windows only."""

from transformers import PreTrainedModel

from .adapter import Adapter, HeadResid, Heads, HFModule, KVHeads, Neurons, Resid, Rotary
from .llama import LlamaAdapter, LlamaBlock, gated_neurons
from .norms import rms_norm, rms_shares
from .windows import layer_window


class Exaone4Block(LlamaBlock):
    """One EXAONE 4 layer."""

    def __init__(self, layer: HFModule) -> None:
        super().__init__(layer)
        self.window = layer_window(self.attn.config, self.attn.layer_idx)
        self.rotated = self.attn.sliding_window is None or self.attn.is_sliding

    def attn_in(self, resid: Resid) -> Resid:
        """The stream itself, not a copy: this family has no norm before attention."""
        return resid

    def finish_q(self, q: Heads, rotary: Rotary | None) -> Heads:
        """Normed head by head and, if the layer uses positions, rotated."""
        norm = self.attn.q_norm
        normed = rms_norm(q, norm.weight, norm.variance_epsilon)
        return super().finish_q(normed, rotary) if self.rotated else normed

    def finish_k(self, k: KVHeads, rotary: Rotary | None) -> KVHeads:
        """As `finish_q`."""
        norm = self.attn.k_norm
        normed = rms_norm(k, norm.weight, norm.variance_epsilon)
        return super().finish_k(normed, rotary) if self.rotated else normed

    def attn_out(self, z: Heads) -> Resid:
        """The output projection and the norm behind it."""
        norm = self.layer.post_attention_layernorm
        return rms_norm(super().attn_out(z), norm.weight, norm.variance_epsilon)

    def heads_out(self, z: Heads) -> HeadResid:
        """Each head's share of the normed sum."""
        norm = self.layer.post_attention_layernorm
        return rms_shares(super().heads_out(z), super().attn_out(z), norm.weight, norm.variance_epsilon)

    def mlp_post(self, resid: Resid) -> Neurons:
        """The gated neurons of the stream itself."""
        return gated_neurons(self.layer.mlp, resid)

    def mlp_down(self, mlp_post: Neurons) -> Resid:
        """The down projection and the norm behind it."""
        norm = self.layer.post_feedforward_layernorm
        return rms_norm(super().mlp_down(mlp_post), norm.weight, norm.variance_epsilon)


class Exaone4Adapter(LlamaAdapter):
    """EXAONE 4."""

    block = Exaone4Block


def adapter(model: PreTrainedModel) -> Adapter:
    """The EXAONE 4 adapter."""
    return Exaone4Adapter(model)
