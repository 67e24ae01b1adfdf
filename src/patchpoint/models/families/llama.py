"""Llama: RMS norms, rotary positions, grouped-query attention, gated MLP."""

from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from .activations import activate, gated
from .adapter import Adapter, Heads, HFModule, KVHeads, Neurons, Resid, Rotary
from .norms import rms_norm
from .rotation import rope_angles, rope_reach, rotate_halves
from .separate import SeparateBlock


class LlamaBlock(SeparateBlock):
    """One Llama layer, and the base of the families that change a piece of it."""

    def __init__(self, layer: HFModule) -> None:
        self.layer = layer
        self.attn = layer.self_attn
        config = self.attn.config
        self.n_heads = config.num_attention_heads
        self.n_kv_heads = config.num_key_value_heads
        self.d_head = self.attn.head_dim
        self.d_mlp = config.intermediate_size
        self.scale = self.attn.scaling

    def attn_in(self, resid: Resid) -> Resid:
        """The stream after the input norm."""
        norm = self.layer.input_layernorm
        return rms_norm(resid, norm.weight, norm.variance_epsilon)

    def finish_q(self, q: Heads, rotary: Rotary | None) -> Heads:
        """Rotated."""
        assert rotary is not None
        return rotate_halves(q, rotary)

    def finish_k(self, k: KVHeads, rotary: Rotary | None) -> KVHeads:
        """Rotated."""
        assert rotary is not None
        return rotate_halves(k, rotary)

    @property
    def out_proj(self) -> HFModule:
        """The output projection."""
        return self.attn.o_proj

    def mlp_post(self, resid: Resid) -> Neurons:
        """The gated neurons behind the MLP's norm."""
        norm = self.layer.post_attention_layernorm
        return gated_neurons(self.layer.mlp, rms_norm(resid, norm.weight, norm.variance_epsilon))

    def mlp_down(self, mlp_post: Neurons) -> Resid:
        """The down projection."""
        out: Tensor = self.layer.mlp.down_proj(mlp_post)
        return out


def gated_neurons(mlp: HFModule, x: Resid) -> Neurons:
    """act(gate(x)) * up(x), without a third buffer of the hidden width for the usual SiLU."""
    hidden = activate(mlp.act_fn, mlp.gate_proj(x))
    return gated(hidden, mlp.up_proj(x))


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


__all__ = ["LlamaAdapter", "LlamaBlock", "adapter", "gated_neurons"]
