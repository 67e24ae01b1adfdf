"""Falcon: layer norms, q/k/v fused in three layouts, mostly parallel, rotation or ALiBi."""

from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from patchpoint.errors import ModelError

from .activations import activate
from .adapter import Adapter, Heads, HFModule, KVHeads, Neurons, Resid, Rotary
from .alibi import alibi_slopes
from .fused import FusedBlock, Parts, in_turn, triples
from .rotation import rope_angles, rope_reach, rotate_halves

EXACT_ALIBI_TOKENS = 257
"""Positions 0 to 256 are whole in bfloat16, in which transformers multiplies them with Falcon's slopes."""


class FalconBlock(FusedBlock):
    """One Falcon layer."""

    def __init__(self, layer: HFModule) -> None:
        self.layer = layer
        self.attn = layer.self_attention
        config = layer.config
        self.n_heads = self.attn.num_heads
        self.n_kv_heads = (
            self.attn.num_kv_heads if config.new_decoder_architecture or config.multi_query else self.n_heads
        )
        self.d_head = self.attn.head_dim
        self.d_mlp = config.ffn_hidden_size
        self.scale = self.attn.inv_norm_factor
        self.parallel = config.new_decoder_architecture or config.parallel_attn
        two_norms = config.new_decoder_architecture and config.num_ln_in_parallel_attn == 2
        self.attn_norm = layer.ln_attn if two_norms else layer.input_layernorm
        if not self.parallel:
            self.mlp_norm = layer.post_attention_layernorm
        else:
            self.mlp_norm = layer.ln_mlp if two_norms else layer.input_layernorm
        if config.alibi:
            self.slopes = alibi_slopes(self.n_heads) * self.scale

    def attn_in(self, resid: Resid) -> Resid:
        """The stream after attention's layer norm."""
        out: Tensor = self.attn_norm(resid)
        return out

    @property
    def qkv_proj(self) -> HFModule:
        """Fused in one of three layouts."""
        return self.attn.query_key_value

    def parts(self, fused: Float[Tensor, "*row d_fused"]) -> Parts:
        """By groups: queries, then their key and value; or one group of all; or head by head."""
        if not self.attn.new_decoder_architecture:
            if self.attn.multi_query:
                return in_turn(fused, self.n_heads, 1)
            return triples(fused, self.n_heads)
        members = self.n_heads // self.n_kv_heads
        grouped = fused.view(*fused.shape[:-1], self.n_kv_heads, members + 2, self.d_head)
        return grouped[..., :-2, :].flatten(-3, -2), grouped[..., -2, :], grouped[..., -1, :]

    def finish_q(self, q: Heads, rotary: Rotary | None) -> Heads:
        """Rotated, unless scores have biases."""
        return q if rotary is None else rotate_halves(q, rotary)

    def finish_k(self, k: KVHeads, rotary: Rotary | None) -> KVHeads:
        """Rotated, unless scores have biases."""
        return k if rotary is None else rotate_halves(k, rotary)

    @property
    def out_proj(self) -> HFModule:
        """The output projection."""
        return self.attn.dense

    def mlp_post(self, resid: Resid) -> Neurons:
        """The neurons behind the MLP's layer norm, which may be attention's."""
        mlp = self.layer.mlp
        return activate(mlp.act, mlp.dense_h_to_4h(self.mlp_norm(resid)))

    def mlp_down(self, mlp_post: Neurons) -> Resid:
        """The down projection."""
        out: Tensor = self.layer.mlp.dense_4h_to_h(mlp_post)
        return out


class FalconAdapter(Adapter):
    """Falcon. ModelError for ALiBi with slopes that transformers rounds position by position."""

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config
        self.model = model
        self.body = model.transformer
        self.blocks = tuple(FalconBlock(layer) for layer in self.body.h)
        self.d_model = config.hidden_size
        self.d_vocab = model.lm_head.weight.shape[0]
        self.max_tokens = EXACT_ALIBI_TOKENS if config.alibi else rope_reach(config)
        if config.alibi and config.num_attention_heads not in (1, 2, 4, 8):
            raise ModelError(
                f"this falcon model has alibi=True and {config.num_attention_heads} heads; transformers rounds "
                "such slopes times positions to bfloat16, which is exact for 1, 2, 4 or 8 heads only; use "
                "another model"
            )

    def embed(self, ids: Int[Tensor, " row"]) -> Float[Tensor, "row d_embed"]:
        """Token embeddings."""
        out: Tensor = self.body.word_embeddings(ids)
        return out

    def resid_pre(self, embed: Float[Tensor, "row d_embed"], positions: Int[Tensor, " row"]) -> Resid:
        """The embeddings themselves: positions enter by rotation or in the scores."""
        return embed.clone()

    def rotary(self, n_tokens: int) -> Rotary | None:
        """The model's own rotary table for this length; None with ALiBi."""
        if self.model.config.alibi:
            return None
        return rope_angles(self.body.rotary_emb, self.model, n_tokens)

    def final(self, resid: Resid) -> Float[Tensor, "row d_final"]:
        """The final layer norm."""
        out: Tensor = self.body.ln_f(resid)
        return out


def adapter(model: PreTrainedModel) -> Adapter:
    """The Falcon adapter."""
    return FalconAdapter(model)
