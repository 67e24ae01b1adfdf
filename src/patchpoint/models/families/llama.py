"""Llama: RMS norms, rotary positions, grouped-query attention, gated MLP."""

from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from .activations import activate
from .adapter import Adapter, Block, Heads, HFModule, KVHeads, Resid, Rotary
from .norms import rms_norm
from .rotation import rope_angles, rope_reach, rotate_halves


class LlamaBlock(Block):
    """One Llama layer, and the base of the families that change a piece of it."""

    def __init__(self, layer: HFModule) -> None:
        self.layer = layer
        self.attn = layer.self_attn
        config = self.attn.config
        self.n_heads = config.num_attention_heads
        self.n_kv_heads = config.num_key_value_heads
        self.d_head = self.attn.head_dim
        self.scale = self.attn.scaling

    def attn_in(self, resid: Resid) -> Resid:
        """The stream after the input norm."""
        norm = self.layer.input_layernorm
        return rms_norm(resid, norm.weight, norm.variance_epsilon)

    def qkv(self, attn_in: Resid, rotary: Rotary | None) -> tuple[Heads, KVHeads, KVHeads]:
        """Rotated queries and keys, and values."""
        assert rotary is not None
        q = self.attn.q_proj(attn_in).unflatten(-1, (self.n_heads, self.d_head))
        k = self.attn.k_proj(attn_in).unflatten(-1, (self.n_kv_heads, self.d_head))
        v = self.attn.v_proj(attn_in).unflatten(-1, (self.n_kv_heads, self.d_head))
        return rotate_halves(q, rotary), rotate_halves(k, rotary), v

    def attn_out(self, z: Heads) -> Resid:
        """The output projection."""
        out: Tensor = self.attn.o_proj(z.flatten(-2))
        return out

    def mlp_out(self, resid: Resid) -> Resid:
        """The gated MLP behind its norm."""
        norm = self.layer.post_attention_layernorm
        return gated_mlp(self.layer.mlp, rms_norm(resid, norm.weight, norm.variance_epsilon))


def gated_mlp(mlp: HFModule, x: Resid) -> Resid:
    """down(act(gate(x)) * up(x)), without a third buffer of the hidden width for the usual SiLU."""
    hidden = activate(mlp.act_fn, mlp.gate_proj(x))
    out: Tensor = mlp.down_proj(hidden.mul_(mlp.up_proj(x)))
    return out


class LlamaAdapter(Adapter):
    """Llama, and the base of the families that differ from it only inside a block."""

    block: type[LlamaBlock] = LlamaBlock

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.body = model.model
        self.blocks = tuple(self.block(layer) for layer in self.body.layers)
        self.d_model = model.config.hidden_size
        self.d_vocab = model.lm_head.weight.shape[0]
        self.max_tokens = rope_reach(model.config)

    def embed(self, ids: Int[Tensor, " row"]) -> Float[Tensor, "row d_embed"]:
        """Token embeddings."""
        out: Tensor = self.body.embed_tokens(ids)
        return out

    def resid_pre(self, embed: Float[Tensor, "row d_embed"], positions: Int[Tensor, " row"]) -> Resid:
        """The embeddings themselves: positions enter by rotation."""
        return embed.clone()

    def rotary(self, n_tokens: int) -> Rotary | None:
        """The model's own rotary table for this length."""
        return rope_angles(self.body.rotary_emb, self.model, n_tokens)

    def final(self, resid: Resid) -> Float[Tensor, "row d_final"]:
        """The final RMS norm."""
        return rms_norm(resid, self.body.norm.weight, self.body.norm.variance_epsilon)


def adapter(model: PreTrainedModel) -> Adapter:
    """The Llama adapter."""
    return LlamaAdapter(model)


__all__ = ["LlamaAdapter", "LlamaBlock", "adapter", "gated_mlp"]
