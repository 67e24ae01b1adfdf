"""Mixtral: Mistral with an MLP of experts, of which a router picks some for each token."""

from torch import Tensor
from transformers import PreTrainedModel

from patchpoint.errors import ModelError

from .adapter import Adapter, HFModule, Neurons, Resid
from .llama import LlamaAdapter
from .mistral import MistralBlock
from .norms import rms_norm


class MixtralBlock(MistralBlock):
    """One Mixtral layer: no neurons of its own, because each token uses those of other experts."""

    def __init__(self, layer: HFModule) -> None:
        super().__init__(layer)
        self.d_mlp = None

    def mlp_post(self, resid: Resid) -> Neurons:
        """ModelError."""
        raise ModelError(NO_NEURONS)

    def mlp_down(self, mlp_post: Neurons) -> Resid:
        """ModelError."""
        raise ModelError(NO_NEURONS)

    def mlp_out(self, resid: Resid) -> Resid:
        """The experts' weighted sum, router and norm included."""
        norm = self.layer.post_attention_layernorm
        out: Tensor = self.layer.mlp(rms_norm(resid, norm.weight, norm.variance_epsilon)[None])[0]
        return out


NO_NEURONS = (
    "mlp_post was asked of a mixtral model, whose MLP is a choice of experts with no neurons shared by all tokens; "
    "use mlp_out"
)


class MixtralAdapter(LlamaAdapter):
    """Mixtral."""

    block = MixtralBlock


def adapter(model: PreTrainedModel) -> Adapter:
    """The Mixtral adapter."""
    return MixtralAdapter(model)
