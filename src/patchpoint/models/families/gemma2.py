"""Gemma 2: Gemma with norms behind attention and MLP too, soft caps on scores and logits, windows."""

from transformers import PreTrainedModel

from .adapter import Adapter, HeadResid, Heads, HFModule, Neurons, Resid
from .gemma import GemmaAdapter, GemmaBlock, gemma_norm
from .llama import gated_neurons
from .norms import rms_shares
from .windows import layer_window


class Gemma2Block(GemmaBlock):
    """One Gemma 2 layer, and the base of Gemma 3's."""

    def __init__(self, layer: HFModule) -> None:
        super().__init__(layer)
        self.window = layer_window(self.attn.config, self.attn.layer_idx)
        self.softcap = self.attn.attn_logit_softcapping

    def attn_out(self, z: Heads) -> Resid:
        """The output projection and the norm behind it."""
        return gemma_norm(self.layer.post_attention_layernorm, super().attn_out(z))

    def heads_out(self, z: Heads) -> HeadResid:
        """Each head's share of the normed sum."""
        norm = self.layer.post_attention_layernorm
        weight = norm.weight.float() + 1.0
        return rms_shares(super().heads_out(z), super().attn_out(z), weight, norm.eps)

    def mlp_post(self, resid: Resid) -> Neurons:
        """The gated neurons behind the MLP's norm."""
        return gated_neurons(self.layer.mlp, gemma_norm(self.layer.pre_feedforward_layernorm, resid))

    def mlp_down(self, mlp_post: Neurons) -> Resid:
        """The down projection and the norm behind it."""
        return gemma_norm(self.layer.post_feedforward_layernorm, super().mlp_down(mlp_post))


class Gemma2Adapter(GemmaAdapter):
    """Gemma 2, and the base of Gemma 3."""

    block: type[Gemma2Block] = Gemma2Block

    @property
    def final_softcap(self) -> float | None:
        """The config's cap on logits."""
        cap: float | None = self.model.config.final_logit_softcapping
        return cap


def adapter(model: PreTrainedModel) -> Adapter:
    """The Gemma 2 adapter."""
    return Gemma2Adapter(model)
