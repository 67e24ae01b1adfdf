"""GPT-2: layer norms, learned positions, fused q/k/v in transposed linear maps."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from .activations import activate
from .adapter import Adapter, Block, Heads, HFModule, KVHeads, Resid, Rotary


class GPT2Block(Block):
    """One GPT-2 layer."""

    def __init__(self, layer: HFModule) -> None:
        self.layer = layer
        self.attn = layer.attn
        self.n_heads = self.n_kv_heads = self.attn.num_heads
        self.d_head = self.attn.head_dim
        self.scale = self.attn.scaling

    def attn_in(self, resid: Resid) -> Resid:
        """The stream after the first layer norm."""
        out: Tensor = self.layer.ln_1(resid)
        return out

    def qkv(self, attn_in: Resid, rotary: Rotary | None) -> tuple[Heads, KVHeads, KVHeads]:
        """The three thirds of the fused projection."""
        fused = self.attn.c_attn(attn_in).unflatten(-1, (3, self.n_heads, self.d_head))
        q, k, v = fused.unbind(1)
        return q, k, v

    def q(self, attn_in: Resid, rotary: Rotary | None) -> Heads:
        """The first third alone."""
        return self._part(attn_in, slice(0, self.n_heads * self.d_head))[:, 0]

    def kv(self, attn_in: Resid, rotary: Rotary | None) -> tuple[KVHeads, KVHeads]:
        """The other two thirds alone."""
        k, v = self._part(attn_in, slice(self.n_heads * self.d_head, None)).unbind(1)
        return k, v

    def _part(self, attn_in: Resid, columns: slice) -> Float[Tensor, "row part head d_head"]:
        fused = self.attn.c_attn
        out = torch.addmm(fused.bias[columns], attn_in, fused.weight[:, columns])
        return out.view(len(attn_in), -1, self.n_heads, self.d_head)

    def attn_out(self, z: Heads) -> Resid:
        """The output projection."""
        out: Tensor = self.attn.c_proj(z.flatten(-2))
        return out

    def mlp_out(self, resid: Resid) -> Resid:
        """The MLP behind its layer norm."""
        mlp = self.layer.mlp
        out: Tensor = mlp.c_proj(activate(mlp.act, mlp.c_fc(self.layer.ln_2(resid))))
        return out


class GPT2Adapter(Adapter):
    """GPT-2 with its learned positions."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.body = model.transformer
        self.blocks = tuple(GPT2Block(layer) for layer in self.body.h)
        self.d_model = model.config.n_embd
        self.d_vocab = model.lm_head.weight.shape[0]
        self.max_tokens = model.config.n_positions

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
    """The GPT-2 adapter."""
    return GPT2Adapter(model)
