"""Gemma 2: Gemma with norms behind attention and MLP too, soft caps on scores and logits, windows."""

from transformers import PreTrainedModel

from .adapter import Adapter, Heads, HFModule, Resid
from .gemma import GemmaAdapter, GemmaBlock, gemma_norm
from .llama import gated_mlp
from .windows import layer_window


class Gemma2Block(GemmaBlock):
    """One Gemma 2 layer."""

    def __init__(self, layer: HFModule) -> None:
        super().__init__(layer)
        self.window = layer_window(self.attn.config, self.attn.layer_idx)
        self.softcap = self.attn.attn_logit_softcapping

    def attn_out(self, z: Heads) -> Resid:
        """The output projection and the norm behind it."""
        return gemma_norm(self.layer.post_attention_layernorm, super().attn_out(z))

    def mlp_out(self, resid: Resid) -> Resid:
        """The gated MLP between its two norms."""
        read = gemma_norm(self.layer.pre_feedforward_layernorm, resid)
        return gemma_norm(self.layer.post_feedforward_layernorm, gated_mlp(self.layer.mlp, read))


class Gemma2Adapter(GemmaAdapter):
    """Gemma 2."""

    block = Gemma2Block

    @property
    def final_softcap(self) -> float | None:
        """The config's cap on logits."""
        cap: float | None = self.model.config.final_logit_softcapping
        return cap


def adapter(model: PreTrainedModel) -> Adapter:
    """The Gemma 2 adapter."""
    return Gemma2Adapter(model)
