"""Granite: Llama with factors on embeddings, on what attention and MLP add, on scores and on logits."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from .adapter import Adapter, HeadResid, Heads, HFModule, Neurons, Resid
from .llama import LlamaAdapter, LlamaBlock


class GraniteBlock(LlamaBlock):
    """One Granite layer."""

    def __init__(self, layer: HFModule) -> None:
        super().__init__(layer)
        self.factor: float = layer.residual_multiplier

    def attn_out(self, z: Heads) -> Resid:
        """The output projection times the residual factor."""
        return super().attn_out(z) * self.factor

    def heads_out(self, z: Heads) -> HeadResid:
        """Each head's share times the residual factor."""
        return super().heads_out(z) * self.factor

    def mlp_down(self, mlp_post: Neurons) -> Resid:
        """The down projection times the residual factor."""
        return super().mlp_down(mlp_post) * self.factor


class GraniteAdapter(LlamaAdapter):
    """Granite: `embed` is before its factor, as the embedding module returns it."""

    block = GraniteBlock

    def resid_pre(self, embed: Float[Tensor, "row d_embed"], positions: Int[Tensor, " row"]) -> Resid:
        """Embeddings times their factor."""
        factor: float = self.model.config.embedding_multiplier
        return embed * factor

    def unembed(
        self,
        final: Float[Tensor, "row d_final"],
        vocab: slice | Int[Tensor, " chosen"],
        out: Float[Tensor, "row chosen"] | None = None,
    ) -> Float[Tensor, "row chosen"]:
        """Logits of chosen vocabulary entries, divided by their factor."""
        logits = super().unembed(final, vocab, out)
        divisor: float = self.model.config.logits_scaling
        return logits / divisor if torch.is_grad_enabled() else logits.div_(divisor)


def adapter(model: PreTrainedModel) -> Adapter:
    """The Granite adapter."""
    return GraniteAdapter(model)
