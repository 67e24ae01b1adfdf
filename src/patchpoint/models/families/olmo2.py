"""OLMo 2: Llama with norms behind attention and MLP instead of before them, and on queries and keys."""

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from .adapter import Adapter, HeadResid, Heads, HFModule, KVHeads, Neurons, Resid, Rotary
from .llama import LlamaAdapter, LlamaBlock, gated_neurons
from .norms import rms_norm, rms_shares
from .rotation import rotate_halves_wide


def olmo2_norm(norm: HFModule, x: Float[Tensor, "*row d"]) -> Float[Tensor, "*row d"]:
    """RMS norm with the product by the weight in float32 too, back to the dtype of `x`."""
    return rms_norm(x, norm.weight.float(), norm.variance_epsilon).to(x.dtype)


class Olmo2Block(LlamaBlock):
    """One OLMo 2 layer."""

    def attn_in(self, resid: Resid) -> Resid:
        """The stream itself, not a copy: this family has no norm before attention."""
        return resid

    def finish_q(self, q: Heads, rotary: Rotary | None) -> Heads:
        """Normed over all heads together, then rotated in the angles' dtype."""
        assert rotary is not None
        normed = olmo2_norm(self.attn.q_norm, q.flatten(-2)).view_as(q)
        return rotate_halves_wide(normed, rotary)

    def finish_k(self, k: KVHeads, rotary: Rotary | None) -> KVHeads:
        """As `finish_q`, over all key heads together."""
        assert rotary is not None
        normed = olmo2_norm(self.attn.k_norm, k.flatten(-2)).view_as(k)
        return rotate_halves_wide(normed, rotary)

    def port_q(self, x: HeadResid, rotary: Rotary | None) -> Heads:
        """Head by head, all of it each time: the norm of a head's query depends on all heads' projections."""
        heads = [self.q(self.attn_in(x[:, head]), rotary)[:, head] for head in range(self.n_heads)]
        return torch.stack(heads, dim=1)

    def port_k(self, x: HeadResid, rotary: Rotary | None) -> Heads:
        """As `port_q`."""
        group = self.n_heads // self.n_kv_heads
        heads = [
            self.kv(self.attn_in(x[:, head]), rotary)[0][:, head // group] for head in range(self.n_heads)
        ]
        return torch.stack(heads, dim=1)

    def attn_out(self, z: Heads) -> Resid:
        """The output projection and the norm behind it."""
        return olmo2_norm(self.layer.post_attention_layernorm, super().attn_out(z))

    def heads_out(self, z: Heads) -> HeadResid:
        """Each head's share of the normed sum."""
        norm = self.layer.post_attention_layernorm
        return rms_shares(super().heads_out(z), super().attn_out(z), norm.weight, norm.variance_epsilon)

    def mlp_post(self, resid: Resid) -> Neurons:
        """The gated neurons of the stream itself."""
        return gated_neurons(self.layer.mlp, resid)

    def mlp_down(self, mlp_post: Neurons) -> Resid:
        """The down projection and the norm behind it."""
        return olmo2_norm(self.layer.post_feedforward_layernorm, super().mlp_down(mlp_post))


class Olmo2Adapter(LlamaAdapter):
    """OLMo 2, and the base of OLMo 3."""

    block: type[Olmo2Block] = Olmo2Block

    def final(self, resid: Resid) -> Float[Tensor, "row d_final"]:
        """The final norm."""
        return olmo2_norm(self.body.norm, resid)


def adapter(model: PreTrainedModel) -> Adapter:
    """The OLMo 2 adapter."""
    return Olmo2Adapter(model)
