"""MPT: layer norms without bias, ALiBi, q/k/v in one matrix that some sizes clip."""

from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from .activations import activate
from .adapter import Adapter, Heads, HFModule, KVHeads, Neurons, Resid, Rotary
from .alibi import alibi_slopes
from .fused import FusedBlock, Parts, in_turn


class MptBlock(FusedBlock):
    """One MPT layer."""

    def __init__(self, layer: HFModule) -> None:
        self.layer = layer
        self.attn = layer.attn
        self.n_heads = self.n_kv_heads = self.attn.n_heads
        self.d_head = self.attn.head_dim
        self.d_mlp = layer.ffn.up_proj.out_features
        self.scale = self.attn.softmax_scale
        self.slopes = alibi_slopes(self.n_heads)

    def attn_in(self, resid: Resid) -> Resid:
        """The stream after the first layer norm."""
        out: Tensor = self.layer.norm_1(resid)
        return out

    @property
    def qkv_proj(self) -> HFModule:
        """Queries, keys and values in one."""
        return self.attn.Wqkv

    def parts(self, fused: Float[Tensor, "*row d_fused"]) -> Parts:
        """The three thirds."""
        return in_turn(fused, self.n_heads, self.n_heads)

    def finish_q(self, q: Heads, rotary: Rotary | None) -> Heads:
        """Clipped if the config says so."""
        return self._clipped(q)

    def finish_k(self, k: KVHeads, rotary: Rotary | None) -> KVHeads:
        """Clipped if the config says so."""
        return self._clipped(k)

    def finish_v(self, v: KVHeads) -> KVHeads:
        """Clipped if the config says so."""
        return self._clipped(v)

    def _clipped(self, x: Heads) -> Heads:
        limit = self.attn.clip_qkv
        return x.clamp(-limit, limit) if limit else x

    @property
    def out_proj(self) -> HFModule:
        """The output projection."""
        return self.attn.out_proj

    def mlp_post(self, resid: Resid) -> Neurons:
        """The neurons behind the second layer norm."""
        mlp = self.layer.ffn
        return activate(mlp.act, mlp.up_proj(self.layer.norm_2(resid)))

    def mlp_down(self, mlp_post: Neurons) -> Resid:
        """The down projection."""
        out: Tensor = self.layer.ffn.down_proj(mlp_post)
        return out


class MptAdapter(Adapter):
    """MPT."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.body = model.transformer
        self.blocks = tuple(MptBlock(layer) for layer in self.body.blocks)
        self.d_model = model.config.hidden_size
        self.d_vocab = model.lm_head.weight.shape[0]
        self.max_tokens = model.config.max_seq_len

    def embed(self, ids: Int[Tensor, " row"]) -> Float[Tensor, "row d_embed"]:
        """Token embeddings."""
        out: Tensor = self.body.wte(ids)
        return out

    def resid_pre(self, embed: Float[Tensor, "row d_embed"], positions: Int[Tensor, " row"]) -> Resid:
        """The embeddings themselves: positions enter the scores."""
        return embed.clone()

    def rotary(self, n_tokens: int) -> Rotary | None:
        """None: positions enter the scores."""
        return None

    def final(self, resid: Resid) -> Float[Tensor, "row d_final"]:
        """The final layer norm."""
        out: Tensor = self.body.norm_f(resid)
        return out


def adapter(model: PreTrainedModel) -> Adapter:
    """The MPT adapter."""
    return MptAdapter(model)
