"""OLMo 2: Llama with norms behind attention and MLP instead of before them, and on queries and keys."""

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from .adapter import Adapter, Heads, HFModule, KVHeads, Resid, Rotary
from .llama import LlamaAdapter, LlamaBlock, gated_mlp
from .norms import rms_norm
from .rotation import rotate_halves


def olmo2_norm(norm: HFModule, x: Float[Tensor, "*row d"]) -> Float[Tensor, "*row d"]:
    """RMS norm with the product by the weight in float32 too, back to the dtype of `x`."""
    return rms_norm(x, norm.weight.float(), norm.variance_epsilon).to(x.dtype)


class Olmo2Block(LlamaBlock):
    """One OLMo 2 layer."""

    def attn_in(self, resid: Resid) -> Resid:
        """The stream itself, not a copy: this family has no norm before attention."""
        return resid

    def qkv(self, attn_in: Resid, rotary: Rotary | None) -> tuple[Heads, KVHeads, KVHeads]:
        """Queries and keys normed over all heads together, then rotated in the angles' dtype; and values."""
        assert rotary is not None
        attn = self.attn
        q = olmo2_norm(attn.q_norm, attn.q_proj(attn_in)).view(-1, self.n_heads, self.d_head)
        k = olmo2_norm(attn.k_norm, attn.k_proj(attn_in)).view(-1, self.n_kv_heads, self.d_head)
        v = attn.v_proj(attn_in).unflatten(-1, (self.n_kv_heads, self.d_head))
        wide = rotary.cos.dtype
        return rotate_halves(q.to(wide), rotary).to(q.dtype), rotate_halves(k.to(wide), rotary).to(k.dtype), v

    def attn_out(self, z: Heads) -> Resid:
        """The output projection and the norm behind it."""
        return olmo2_norm(self.layer.post_attention_layernorm, super().attn_out(z))

    def mlp_out(self, resid: Resid) -> Resid:
        """The gated MLP on the stream itself, and the norm behind it."""
        return olmo2_norm(self.layer.post_feedforward_layernorm, gated_mlp(self.layer.mlp, resid))


class Olmo2Adapter(LlamaAdapter):
    """OLMo 2."""

    block = Olmo2Block

    def final(self, resid: Resid) -> Float[Tensor, "row d_final"]:
        """The final norm."""
        return olmo2_norm(self.body.norm, resid)


def adapter(model: PreTrainedModel) -> Adapter:
    """The OLMo 2 adapter."""
    return Olmo2Adapter(model)
