"""GPT-J: attention and MLP side by side behind one layer norm, pairwise rotation, head with bias."""

from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from .activations import activate
from .adapter import Adapter, Heads, HFModule, KVHeads, Neurons, Resid, Rotary
from .rotation import rotate_pairs
from .separate import SeparateBlock


class GPTJBlock(SeparateBlock):
    """One GPT-J layer."""

    parallel = True

    def __init__(self, layer: HFModule) -> None:
        self.layer = layer
        self.attn = layer.attn
        self.d_mlp = layer.mlp.fc_in.out_features
        self.n_heads = self.n_kv_heads = self.attn.num_attention_heads
        self.d_head = self.attn.head_dim
        self.scale = self.d_head**-0.5

    def attn_in(self, resid: Resid) -> Resid:
        """The stream after the layer norm."""
        out: Tensor = self.layer.ln_1(resid)
        return out

    def finish_q(self, q: Heads, rotary: Rotary | None) -> Heads:
        """Partly rotated."""
        assert rotary is not None
        return rotate_pairs(q, rotary)

    def finish_k(self, k: KVHeads, rotary: Rotary | None) -> KVHeads:
        """Partly rotated."""
        assert rotary is not None
        return rotate_pairs(k, rotary)

    @property
    def out_proj(self) -> HFModule:
        """The output projection."""
        return self.attn.out_proj

    def mlp_post(self, resid: Resid) -> Neurons:
        """The neurons behind the norm that attention reads from as well."""
        mlp = self.layer.mlp
        return activate(mlp.act, mlp.fc_in(self.layer.ln_1(resid)))

    def mlp_down(self, mlp_post: Neurons) -> Resid:
        """The down projection."""
        out: Tensor = self.layer.mlp.fc_out(mlp_post)
        return out


class GPTJAdapter(Adapter):
    """GPT-J with its table of angles, and the base of the family that differs only inside a block."""

    block: type[GPTJBlock] = GPTJBlock

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.body = model.transformer
        self.blocks = tuple(self.block(layer) for layer in self.body.h)
        self.d_model = model.config.n_embd
        self.d_vocab = model.lm_head.weight.shape[0]
        self.max_tokens = model.config.n_positions

    def embed(self, ids: Int[Tensor, " row"]) -> Float[Tensor, "row d_embed"]:
        """Token embeddings."""
        out: Tensor = self.body.wte(ids)
        return out

    def resid_pre(self, embed: Float[Tensor, "row d_embed"], positions: Int[Tensor, " row"]) -> Resid:
        """The embeddings themselves: positions enter by rotation."""
        return embed.clone()

    def rotary(self, n_tokens: int) -> Rotary | None:
        """The first layer's table, equal in all layers; each angle stands for both dimensions of its pair."""
        weight = self.body.wte.weight
        table = self.body.h[0].attn.embed_positions[:n_tokens].to(weight.device, weight.dtype)
        sin, cos = table.repeat_interleave(2, dim=-1).chunk(2, dim=-1)
        return Rotary(cos, sin)

    def final(self, resid: Resid) -> Float[Tensor, "row d_final"]:
        """The final layer norm."""
        out: Tensor = self.body.ln_f(resid)
        return out


def adapter(model: PreTrainedModel) -> Adapter:
    """The GPT-J adapter."""
    return GPTJAdapter(model)


__all__ = ["GPTJAdapter", "GPTJBlock", "adapter"]
