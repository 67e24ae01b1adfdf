"""GPT-Neo: layer norms, learned positions, unscaled attention, windows in every other layer."""

from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from .activations import activate
from .adapter import Adapter, HFModule, Neurons, Resid, Rotary
from .separate import SeparateBlock


class GPTNeoBlock(SeparateBlock):
    """One GPT-Neo layer: three projections without bias, unrotated."""

    scale = 1.0

    def __init__(self, layer: HFModule) -> None:
        self.layer = layer
        self.attn = layer.attn.attention
        self.d_mlp = layer.mlp.c_fc.out_features
        self.n_heads = self.n_kv_heads = self.attn.num_heads
        self.d_head = self.attn.head_dim
        self.window = self.attn.config.window_size if self.attn.attention_type == "local" else None

    def attn_in(self, resid: Resid) -> Resid:
        """The stream after the first layer norm."""
        out: Tensor = self.layer.ln_1(resid)
        return out

    @property
    def out_proj(self) -> HFModule:
        """The output projection."""
        return self.attn.out_proj

    def mlp_post(self, resid: Resid) -> Neurons:
        """The neurons behind the second layer norm."""
        mlp = self.layer.mlp
        return activate(mlp.act, mlp.c_fc(self.layer.ln_2(resid)))

    def mlp_down(self, mlp_post: Neurons) -> Resid:
        """The down projection."""
        out: Tensor = self.layer.mlp.c_proj(mlp_post)
        return out


class GPTNeoAdapter(Adapter):
    """GPT-Neo with its learned positions."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.body = model.transformer
        self.blocks = tuple(GPTNeoBlock(layer) for layer in self.body.h)
        self.d_model = model.config.hidden_size
        self.d_vocab = model.lm_head.weight.shape[0]
        self.max_tokens = model.config.max_position_embeddings

    def embed(self, ids: Int[Tensor, " row"]) -> Float[Tensor, "row d_embed"]:
        """Token embeddings, before positions."""
        out: Tensor = self.body.wte(ids)
        return out

    def resid_pre(self, embed: Float[Tensor, "row d_embed"], positions: Int[Tensor, " row"]) -> Resid:
        """Embeddings plus learned positions."""
        out: Tensor = embed + self.body.wpe(positions)
        return out

    def rotary(self, n_tokens: int) -> Rotary | None:
        """None: positions are in the stream."""
        return None

    def final(self, resid: Resid) -> Float[Tensor, "row d_final"]:
        """The final layer norm."""
        out: Tensor = self.body.ln_f(resid)
        return out


def adapter(model: PreTrainedModel) -> Adapter:
    """The GPT-Neo adapter."""
    return GPTNeoAdapter(model)
