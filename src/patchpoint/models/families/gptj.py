"""GPT-J: attention and MLP side by side behind one layer norm, pairwise rotation, head with bias."""

from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from .activations import activate
from .adapter import Adapter, Block, Heads, HFModule, KVHeads, Resid, Rotary
from .rotation import rotate_pairs


class GPTJBlock(Block):
    """One GPT-J layer."""

    parallel = True

    def __init__(self, layer: HFModule) -> None:
        self.layer = layer
        self.attn = layer.attn
        self.n_heads = self.n_kv_heads = self.attn.num_attention_heads
        self.d_head = self.attn.head_dim
        self.scale = self.d_head**-0.5

    def attn_in(self, resid: Resid) -> Resid:
        """The stream after the layer norm."""
        out: Tensor = self.layer.ln_1(resid)
        return out

    def qkv(self, attn_in: Resid, rotary: Rotary | None) -> tuple[Heads, KVHeads, KVHeads]:
        """Three projections without bias, the first two partly rotated."""
        assert rotary is not None
        heads = (self.n_heads, self.d_head)
        q = self.attn.q_proj(attn_in).unflatten(-1, heads)
        k = self.attn.k_proj(attn_in).unflatten(-1, heads)
        v = self.attn.v_proj(attn_in).unflatten(-1, heads)
        return rotate_pairs(q, rotary), rotate_pairs(k, rotary), v

    def attn_out(self, z: Heads) -> Resid:
        """The output projection."""
        out: Tensor = self.attn.out_proj(z.flatten(-2))
        return out

    def mlp_out(self, resid: Resid) -> Resid:
        """The MLP behind the norm that attention reads from as well."""
        mlp = self.layer.mlp
        out: Tensor = mlp.fc_out(activate(mlp.act, mlp.fc_in(self.layer.ln_1(resid))))
        return out


class GPTJAdapter(Adapter):
    """GPT-J with its table of angles."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.body = model.transformer
        self.blocks = tuple(GPTJBlock(layer) for layer in self.body.h)
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
