"""BLOOM: layer norms, one of them behind the embeddings, ALiBi, q/k/v fused head by head."""

from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from patchpoint.errors import ModelError

from .activations import activate
from .adapter import Adapter, HFModule, Neurons, Resid, Rotary
from .alibi import alibi_slopes
from .fused import FusedBlock, Parts, triples


class BloomBlock(FusedBlock):
    """One BLOOM layer."""

    def __init__(self, layer: HFModule) -> None:
        self.layer = layer
        self.attn = layer.self_attention
        self.n_heads = self.n_kv_heads = self.attn.num_heads
        self.d_head = self.attn.head_dim
        self.d_mlp = layer.mlp.dense_h_to_4h.out_features
        self.scale = self.attn.inv_norm_factor
        self.slopes = alibi_slopes(self.n_heads)

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

    @property
    def out_proj(self) -> HFModule:
        """The output projection."""
        return self.attn.dense

    def mlp_post(self, resid: Resid) -> Neurons:
        """The neurons behind the MLP's layer norm."""
        mlp = self.layer.mlp
        return activate(mlp.gelu_impl, mlp.dense_h_to_4h(self.layer.post_attention_layernorm(resid)))

    def mlp_down(self, mlp_post: Neurons) -> Resid:
        """The down projection."""
        out: Tensor = self.layer.mlp.dense_4h_to_h(mlp_post)
        return out


class BloomAdapter(Adapter):
    """BLOOM. ModelError where blocks add to what their norms give, or where biases are left out."""

    def __init__(self, model: PreTrainedModel) -> None:
        for option in ("apply_residual_connection_post_layernorm", "slow_but_exact"):
            if getattr(model.config, option):
                raise ModelError(
                    f"this bloom model has {option}=True; only {option}=False is supported: its blocks "
                    "must add attention and MLP, biases included, to the residual stream"
                )
        self.model = model
        self.body = model.transformer
        self.blocks = tuple(BloomBlock(layer) for layer in self.body.h)
        self.d_model = model.config.hidden_size
        self.d_vocab = model.lm_head.weight.shape[0]
        self.max_tokens = None

    def embed(self, ids: Int[Tensor, " row"]) -> Float[Tensor, "row d_embed"]:
        """Token embeddings, before their layer norm."""
        out: Tensor = self.body.word_embeddings(ids)
        return out

    def resid_pre(self, embed: Float[Tensor, "row d_embed"], positions: Int[Tensor, " row"]) -> Resid:
        """Embeddings after their layer norm."""
        out: Tensor = self.body.word_embeddings_layernorm(embed)
        return out

    def rotary(self, n_tokens: int) -> Rotary | None:
        """None: positions enter the scores."""
        return None

    def final(self, resid: Resid) -> Float[Tensor, "row d_final"]:
        """The final layer norm."""
        out: Tensor = self.body.ln_f(resid)
        return out


def adapter(model: PreTrainedModel) -> Adapter:
    """The BLOOM adapter."""
    return BloomAdapter(model)
