"""Phi-1 to Phi-2: attention and MLP side by side behind one layer norm, partial rotation, all biases."""

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from .activations import activate
from .adapter import Adapter, Heads, HFModule, KVHeads, Neurons, Resid, Rotary
from .llama import LlamaAdapter, LlamaBlock


class PhiBlock(LlamaBlock):
    """One Phi layer."""

    parallel = True

    def attn_in(self, resid: Resid) -> Resid:
        """The stream after the layer norm."""
        out: Tensor = self.layer.input_layernorm(resid)
        return out

    def finish_q(self, q: Heads, rotary: Rotary | None) -> Heads:
        """Partly rotated, behind a layer norm per head if there is one."""
        return super().finish_q(self.attn.q_layernorm(q) if self.attn.qk_layernorm else q, rotary)

    def finish_k(self, k: KVHeads, rotary: Rotary | None) -> KVHeads:
        """Partly rotated, behind a layer norm per head if there is one."""
        return super().finish_k(self.attn.k_layernorm(k) if self.attn.qk_layernorm else k, rotary)

    @property
    def out_proj(self) -> HFModule:
        """The output projection."""
        return self.attn.dense

    def mlp_post(self, resid: Resid) -> Neurons:
        """The neurons behind the norm that attention reads from as well."""
        mlp = self.layer.mlp
        return activate(mlp.activation_fn, mlp.fc1(self.layer.input_layernorm(resid)))

    def mlp_down(self, mlp_post: Neurons) -> Resid:
        """The down projection."""
        out: Tensor = self.layer.mlp.fc2(mlp_post)
        return out


class PhiAdapter(LlamaAdapter):
    """Phi."""

    block = PhiBlock

    def final(self, resid: Resid) -> Float[Tensor, "row d_final"]:
        """The final layer norm."""
        out: Tensor = self.body.final_layernorm(resid)
        return out


def adapter(model: PreTrainedModel) -> Adapter:
    """The Phi adapter."""
    return PhiAdapter(model)
