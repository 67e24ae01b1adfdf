"""Gemma: Llama with scaled embeddings, norm weights counted from 1, and a GELU-gated MLP."""

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from patchpoint.errors import ModelError

from .adapter import Adapter, HFModule, Neurons, Resid
from .llama import LlamaAdapter, LlamaBlock, gated_neurons
from .norms import rms_norm


def gemma_norm(norm: HFModule, x: Float[Tensor, "*row d"]) -> Float[Tensor, "*row d"]:
    """RMS norm with factors 1 + weight, all of it in float32, back to the dtype of `x`."""
    return rms_norm(x, norm.weight.float() + 1.0, norm.eps).to(x.dtype)


class GemmaBlock(LlamaBlock):
    """One Gemma layer, and the base of Gemma 2's."""

    def attn_in(self, resid: Resid) -> Resid:
        """The stream after the input norm."""
        return gemma_norm(self.layer.input_layernorm, resid)

    def mlp_post(self, resid: Resid) -> Neurons:
        """The gated neurons behind the MLP's norm."""
        return gated_neurons(self.layer.mlp, gemma_norm(self.layer.post_attention_layernorm, resid))


class GemmaAdapter(LlamaAdapter):
    """Gemma, and the base of Gemma 2: `embed` is scaled by sqrt(d_model), as the embedding module returns it.

    ModelError for a transformers release whose embedding module leaves the scale to the model's forward.
    """

    block: type[LlamaBlock] = GemmaBlock

    def __init__(self, model: PreTrainedModel) -> None:
        if not hasattr(model.model.embed_tokens, "embed_scale"):
            raise ModelError(
                f"the embedding module of this {model.config.model_type} model has no embed_scale; expected "
                "one that scales its output, as in transformers 5.23: upgrade transformers and load again"
            )
        super().__init__(model)

    def final(self, resid: Resid) -> Float[Tensor, "row d_final"]:
        """The final norm."""
        return gemma_norm(self.body.norm, resid)


def adapter(model: PreTrainedModel) -> Adapter:
    """The Gemma adapter."""
    return GemmaAdapter(model)


__all__ = ["GemmaAdapter", "GemmaBlock", "adapter", "gemma_norm"]
