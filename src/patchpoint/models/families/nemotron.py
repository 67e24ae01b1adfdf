"""Nemotron: Llama with layer norms whose factors count from 1, partial rotation and squared-ReLU neurons."""

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from .activations import activate
from .adapter import Adapter, Neurons, Resid
from .llama import LlamaAdapter, LlamaBlock


class NemotronBlock(LlamaBlock):
    """One Nemotron layer."""

    def attn_in(self, resid: Resid) -> Resid:
        """The stream after the input layer norm."""
        out: Tensor = self.layer.input_layernorm(resid)
        return out

    def mlp_post(self, resid: Resid) -> Neurons:
        """The neurons behind the MLP's layer norm, without a gate."""
        mlp = self.layer.mlp
        return activate(mlp.act_fn, mlp.up_proj(self.layer.post_attention_layernorm(resid)))


class NemotronAdapter(LlamaAdapter):
    """Nemotron."""

    block = NemotronBlock

    def final(self, resid: Resid) -> Float[Tensor, "row d_final"]:
        """The final layer norm."""
        out: Tensor = self.body.norm(resid)
        return out


def adapter(model: PreTrainedModel) -> Adapter:
    """The Nemotron adapter."""
    return NemotronAdapter(model)
