"""StarCoder2: Llama with layer norms, a plain MLP, biases and one attention window for all layers."""

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from .activations import activate
from .adapter import Adapter, HFModule, Neurons, Resid
from .llama import LlamaAdapter, LlamaBlock


class Starcoder2Block(LlamaBlock):
    """One StarCoder2 layer."""

    def __init__(self, layer: HFModule) -> None:
        super().__init__(layer)
        self.window = self.attn.config.sliding_window

    def attn_in(self, resid: Resid) -> Resid:
        """The stream after the input layer norm."""
        out: Tensor = self.layer.input_layernorm(resid)
        return out

    def mlp_post(self, resid: Resid) -> Neurons:
        """The neurons behind the MLP's layer norm."""
        mlp = self.layer.mlp
        return activate(mlp.act, mlp.c_fc(self.layer.post_attention_layernorm(resid)))

    def mlp_down(self, mlp_post: Neurons) -> Resid:
        """The down projection."""
        out: Tensor = self.layer.mlp.c_proj(mlp_post)
        return out


class Starcoder2Adapter(LlamaAdapter):
    """StarCoder2."""

    block = Starcoder2Block

    def final(self, resid: Resid) -> Float[Tensor, "row d_final"]:
        """The final layer norm."""
        out: Tensor = self.body.norm(resid)
        return out


def adapter(model: PreTrainedModel) -> Adapter:
    """The StarCoder2 adapter."""
    return Starcoder2Adapter(model)
