"""OLMo: Llama with layer norms that have no weights and, in some sizes, clipped queries, keys and values."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from .adapter import Adapter, Heads, KVHeads, Neurons, Resid, Rotary
from .llama import LlamaAdapter, LlamaBlock, gated_neurons
from .rotation import rotate_halves_wide


def olmo_norm(x: Float[Tensor, "*row d"]) -> Float[Tensor, "*row d"]:
    """Layer norm without weight and bias, in float32, back to the dtype of `x`."""
    return F.layer_norm(x.float(), x.shape[-1:], eps=1e-5).to(x.dtype)


class OlmoBlock(LlamaBlock):
    """One OLMo layer."""

    def attn_in(self, resid: Resid) -> Resid:
        """The stream after the layer norm."""
        return olmo_norm(resid)

    def finish_q(self, q: Heads, rotary: Rotary | None) -> Heads:
        """Clipped, then rotated in the angles' dtype."""
        assert rotary is not None
        return rotate_halves_wide(self._clipped(q), rotary)

    def finish_k(self, k: KVHeads, rotary: Rotary | None) -> KVHeads:
        """Clipped, then rotated in the angles' dtype."""
        assert rotary is not None
        return rotate_halves_wide(self._clipped(k), rotary)

    def finish_v(self, v: KVHeads) -> KVHeads:
        """Clipped."""
        return self._clipped(v)

    def _clipped(self, x: KVHeads) -> KVHeads:
        limit = self.attn.config.clip_qkv
        return x if limit is None else x.clamp(-limit, limit)

    def mlp_post(self, resid: Resid) -> Neurons:
        """The gated neurons behind the MLP's layer norm."""
        return gated_neurons(self.layer.mlp, olmo_norm(resid))


class OlmoAdapter(LlamaAdapter):
    """OLMo."""

    block = OlmoBlock

    def final(self, resid: Resid) -> Float[Tensor, "row d_final"]:
        """The final layer norm."""
        return olmo_norm(resid)


def adapter(model: PreTrainedModel) -> Adapter:
    """The OLMo adapter."""
    return OlmoAdapter(model)
