"""Phi-3 and Phi-4: Llama with q/k/v in one matrix, gate/up in one matrix, partial rotation, one window."""

from torch import Tensor
from transformers import PreTrainedModel

from .activations import activate
from .adapter import Adapter, Heads, HFModule, KVHeads, Resid, Rotary
from .llama import LlamaAdapter, LlamaBlock
from .norms import rms_norm
from .rotation import rotate_halves


class Phi3Block(LlamaBlock):
    """One Phi-3 layer."""

    def __init__(self, layer: HFModule) -> None:
        super().__init__(layer)
        self.window = self.attn.config.sliding_window

    def qkv(self, attn_in: Resid, rotary: Rotary | None) -> tuple[Heads, KVHeads, KVHeads]:
        """The fused projection holds all queries, then all keys, then all values."""
        assert rotary is not None
        heads = (self.n_heads, self.n_kv_heads, self.n_kv_heads)
        fused = self.attn.qkv_proj(attn_in).unflatten(-1, (sum(heads), self.d_head))
        q, k, v = fused.split(heads, dim=1)
        return rotate_halves(q, rotary), rotate_halves(k, rotary), v

    def mlp_out(self, resid: Resid) -> Resid:
        """The gated MLP behind its norm, the activation and the product within the fused buffer."""
        norm, mlp = self.layer.post_attention_layernorm, self.layer.mlp
        gate, up = mlp.gate_up_proj(rms_norm(resid, norm.weight, norm.variance_epsilon)).chunk(2, dim=-1)
        out: Tensor = mlp.down_proj(activate(mlp.activation_fn, gate).mul_(up))
        return out


class Phi3Adapter(LlamaAdapter):
    """Phi-3."""

    block = Phi3Block


def adapter(model: PreTrainedModel) -> Adapter:
    """The Phi-3 adapter."""
    return Phi3Adapter(model)
