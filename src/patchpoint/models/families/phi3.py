"""Phi-3 and Phi-4: Llama with q/k/v in one matrix, gate/up in one matrix, partial rotation, one window."""

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from .activations import activate, gated
from .adapter import Adapter, HFModule, Neurons, Resid
from .fused import FusedBlock, Parts, in_turn
from .llama import LlamaAdapter, LlamaBlock
from .norms import rms_norm


class Phi3Block(FusedBlock, LlamaBlock):
    """One Phi-3 layer."""

    def __init__(self, layer: HFModule) -> None:
        super().__init__(layer)
        self.window = self.attn.config.sliding_window

    @property
    def qkv_proj(self) -> HFModule:
        """Queries, keys and values in one."""
        return self.attn.qkv_proj

    def parts(self, fused: Float[Tensor, "*row d_fused"]) -> Parts:
        """All queries, then all keys, then all values."""
        return in_turn(fused, self.n_heads, self.n_kv_heads)

    def mlp_post(self, resid: Resid) -> Neurons:
        """The gated neurons behind the MLP's norm, made within the fused buffer."""
        norm, mlp = self.layer.post_attention_layernorm, self.layer.mlp
        gate, up = mlp.gate_up_proj(rms_norm(resid, norm.weight, norm.variance_epsilon)).chunk(2, dim=-1)
        return gated(activate(mlp.activation_fn, gate), up)


class Phi3Adapter(LlamaAdapter):
    """Phi-3."""

    block = Phi3Block


def adapter(model: PreTrainedModel) -> Adapter:
    """The Phi-3 adapter."""
    return Phi3Adapter(model)
