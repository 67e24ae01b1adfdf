"""Phi-1 to Phi-2: attention and MLP side by side behind one layer norm, partial rotation, all biases."""

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from .activations import activate
from .adapter import Adapter, Heads, KVHeads, Resid, Rotary
from .llama import LlamaAdapter, LlamaBlock
from .rotation import rotate_halves


class PhiBlock(LlamaBlock):
    """One Phi layer."""

    parallel = True

    def attn_in(self, resid: Resid) -> Resid:
        """The stream after the layer norm."""
        out: Tensor = self.layer.input_layernorm(resid)
        return out

    def qkv(self, attn_in: Resid, rotary: Rotary | None) -> tuple[Heads, KVHeads, KVHeads]:
        """Partly rotated queries and keys, behind a layer norm per head if there is one, and values."""
        assert rotary is not None
        attn = self.attn
        q = attn.q_proj(attn_in).unflatten(-1, (self.n_heads, self.d_head))
        k = attn.k_proj(attn_in).unflatten(-1, (self.n_kv_heads, self.d_head))
        v = attn.v_proj(attn_in).unflatten(-1, (self.n_kv_heads, self.d_head))
        if attn.qk_layernorm:
            q, k = attn.q_layernorm(q), attn.k_layernorm(k)
        return rotate_halves(q, rotary), rotate_halves(k, rotary), v

    def attn_out(self, z: Heads) -> Resid:
        """The output projection."""
        out: Tensor = self.attn.dense(z.flatten(-2))
        return out

    def mlp_out(self, resid: Resid) -> Resid:
        """The MLP behind the norm that attention reads from as well."""
        mlp = self.layer.mlp
        out: Tensor = mlp.fc2(activate(mlp.activation_fn, mlp.fc1(self.layer.input_layernorm(resid))))
        return out


class PhiAdapter(LlamaAdapter):
    """Phi."""

    block = PhiBlock

    def final(self, resid: Resid) -> Float[Tensor, "row d_final"]:
        """The final layer norm."""
        out: Tensor = self.body.final_layernorm(resid)
        return out


def adapter(model: PreTrainedModel) -> Adapter:
    """The Phi adapter."""
    return PhiAdapter(model)
