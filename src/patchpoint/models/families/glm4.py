"""GLM-4 (0414 series): GLM with norms behind attention and MLP too."""

from transformers import PreTrainedModel

from .adapter import Adapter, HeadResid, Heads, Neurons, Resid
from .glm import GlmAdapter, GlmBlock
from .norms import rms_norm, rms_shares


class Glm4Block(GlmBlock):
    """One GLM-4 layer."""

    def attn_out(self, z: Heads) -> Resid:
        """The output projection and the norm behind it."""
        norm = self.layer.post_self_attn_layernorm
        return rms_norm(super().attn_out(z), norm.weight, norm.variance_epsilon)

    def heads_out(self, z: Heads) -> HeadResid:
        """Each head's share of the normed sum."""
        norm = self.layer.post_self_attn_layernorm
        return rms_shares(super().heads_out(z), super().attn_out(z), norm.weight, norm.variance_epsilon)

    def mlp_down(self, mlp_post: Neurons) -> Resid:
        """The down projection and the norm behind it."""
        norm = self.layer.post_mlp_layernorm
        return rms_norm(super().mlp_down(mlp_post), norm.weight, norm.variance_epsilon)


class Glm4Adapter(GlmAdapter):
    """GLM-4."""

    block = Glm4Block


def adapter(model: PreTrainedModel) -> Adapter:
    """The GLM-4 adapter."""
    return Glm4Adapter(model)
