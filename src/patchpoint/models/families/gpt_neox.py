"""GPT-NeoX and Pythia: layer norms, partial rotation, q/k/v fused head by head, often parallel."""

from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from .activations import activate
from .adapter import Adapter, Heads, HFModule, KVHeads, Neurons, Resid, Rotary
from .fused import FusedBlock, Parts, triples
from .rotation import rope_angles, rope_reach, rotate_halves


class GPTNeoXBlock(FusedBlock):
    """One GPT-NeoX layer."""

    def __init__(self, layer: HFModule) -> None:
        self.layer = layer
        self.attn = layer.attention
        self.d_mlp = layer.mlp.dense_h_to_4h.out_features
        self.n_heads = self.n_kv_heads = self.attn.config.num_attention_heads
        self.d_head = self.attn.head_size
        self.scale = self.attn.scaling
        self.parallel = layer.use_parallel_residual

    def attn_in(self, resid: Resid) -> Resid:
        """The stream after the input layer norm."""
        out: Tensor = self.layer.input_layernorm(resid)
        return out

    @property
    def qkv_proj(self) -> HFModule:
        """Fused head by head."""
        return self.attn.query_key_value

    def parts(self, fused: Float[Tensor, "*row d_fused"]) -> Parts:
        """q, k and v of head 0, then of head 1, and so on."""
        return triples(fused, self.n_heads)

    def finish_q(self, q: Heads, rotary: Rotary | None) -> Heads:
        """Partly rotated."""
        assert rotary is not None
        return rotate_halves(q, rotary)

    def finish_k(self, k: KVHeads, rotary: Rotary | None) -> KVHeads:
        """Partly rotated."""
        assert rotary is not None
        return rotate_halves(k, rotary)

    @property
    def out_proj(self) -> HFModule:
        """The output projection."""
        return self.attn.dense

    def mlp_post(self, resid: Resid) -> Neurons:
        """The neurons behind the MLP's own layer norm, in parallel blocks too."""
        mlp = self.layer.mlp
        return activate(mlp.act, mlp.dense_h_to_4h(self.layer.post_attention_layernorm(resid)))

    def mlp_down(self, mlp_post: Neurons) -> Resid:
        """The down projection."""
        out: Tensor = self.layer.mlp.dense_4h_to_h(mlp_post)
        return out


class GPTNeoXAdapter(Adapter):
    """GPT-NeoX with the model's own rotary module."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.body = model.gpt_neox
        self.blocks = tuple(GPTNeoXBlock(layer) for layer in self.body.layers)
        self.d_model = model.config.hidden_size
        self.d_vocab = model.lm_head.weight.shape[0]
        self.max_tokens = rope_reach(model.config)

    def embed(self, ids: Int[Tensor, " row"]) -> Float[Tensor, "row d_embed"]:
        """Token embeddings."""
        out: Tensor = self.body.embed_in(ids)
        return out

    def resid_pre(self, embed: Float[Tensor, "row d_embed"], positions: Int[Tensor, " row"]) -> Resid:
        """The embeddings themselves: positions enter by rotation."""
        return embed.clone()

    def rotary(self, n_tokens: int) -> Rotary | None:
        """The model's own rotary table for this length."""
        return rope_angles(self.body.rotary_emb, self.model, n_tokens)

    def final(self, resid: Resid) -> Float[Tensor, "row d_final"]:
        """The final layer norm."""
        out: Tensor = self.body.final_layer_norm(resid)
        return out


def adapter(model: PreTrainedModel) -> Adapter:
    """The GPT-NeoX adapter."""
    return GPTNeoXAdapter(model)
