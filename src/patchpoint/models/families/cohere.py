"""Cohere (Command R): attention and MLP side by side behind one layer norm, pairwise rotation, scaled logits."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from .adapter import Adapter, Heads, HFModule, KVHeads, Neurons, Resid, Rotary
from .llama import LlamaAdapter, LlamaBlock, gated_neurons
from .rotation import rotate_pairs


def cohere_norm(norm: HFModule, x: Float[Tensor, "*row d"]) -> Float[Tensor, "*row d"]:
    """Layer norm over the last axis without bias, all of it in float32; the weight may differ by head."""
    wide = F.layer_norm(x.float(), x.shape[-1:], eps=norm.variance_epsilon)
    out: Tensor = (wide * norm.weight.float()).to(x.dtype)
    return out


class CohereBlock(LlamaBlock):
    """One Cohere layer, and the base of Cohere 2's."""

    parallel = True

    def attn_in(self, resid: Resid) -> Resid:
        """The stream after the layer norm."""
        return cohere_norm(self.layer.input_layernorm, resid)

    def finish_q(self, q: Heads, rotary: Rotary | None) -> Heads:
        """Rotated in float32, behind a layer norm per head if there is one."""
        assert rotary is not None
        normed = cohere_norm(self.attn.q_norm, q) if getattr(self.attn, "use_qk_norm", False) else q
        return rotate_pairs(normed.float(), rotary).to(q.dtype)

    def finish_k(self, k: KVHeads, rotary: Rotary | None) -> KVHeads:
        """As `finish_q`."""
        assert rotary is not None
        normed = cohere_norm(self.attn.k_norm, k) if getattr(self.attn, "use_qk_norm", False) else k
        return rotate_pairs(normed.float(), rotary).to(k.dtype)

    def mlp_post(self, resid: Resid) -> Neurons:
        """The gated neurons behind the norm that attention reads from as well."""
        return gated_neurons(self.layer.mlp, cohere_norm(self.layer.input_layernorm, resid))


class CohereAdapter(LlamaAdapter):
    """Cohere, and the base of Cohere 2."""

    block: type[CohereBlock] = CohereBlock

    def final(self, resid: Resid) -> Float[Tensor, "row d_final"]:
        """The final layer norm."""
        return cohere_norm(self.body.norm, resid)

    def unembed(
        self,
        final: Float[Tensor, "row d_final"],
        vocab: slice | Int[Tensor, " chosen"],
        out: Float[Tensor, "row chosen"] | None = None,
    ) -> Float[Tensor, "row chosen"]:
        """Logits of chosen vocabulary entries, times their factor."""
        logits = super().unembed(final, vocab, out)
        factor: float = self.model.logit_scale
        return logits * factor if torch.is_grad_enabled() else logits.mul_(factor)


def adapter(model: PreTrainedModel) -> Adapter:
    """The Cohere adapter."""
    return CohereAdapter(model)


__all__ = ["CohereAdapter", "CohereBlock", "adapter", "cohere_norm"]
