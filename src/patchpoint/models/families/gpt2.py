"""GPT-2: layer norms, learned positions, fused q/k/v in transposed linear maps."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from patchpoint.errors import ModelError

from .activations import activate
from .adapter import Adapter, Block, Heads, HFModule, KVHeads, Neurons, Resid, Rotary
from .fused import FusedBlock, Parts, in_turn


class GPT2Block(FusedBlock):
    """One GPT-2 layer."""

    def __init__(self, layer: HFModule) -> None:
        self.layer = layer
        self.attn = layer.attn
        self.d_mlp = layer.mlp.c_fc.nf
        self.n_heads = self.n_kv_heads = self.attn.num_heads
        self.d_head = self.attn.head_dim
        self.scale = self.attn.scaling

    def attn_in(self, resid: Resid) -> Resid:
        """The stream after the first layer norm."""
        out: Tensor = self.layer.ln_1(resid)
        return out

    @property
    def qkv_proj(self) -> HFModule:
        """The fused projection."""
        return self.attn.c_attn

    def parts(self, fused: Float[Tensor, "*row d_fused"]) -> Parts:
        """The three thirds."""
        return in_turn(fused, self.n_heads, self.n_heads)

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

    @property
    def out_proj(self) -> HFModule:
        """The output projection."""
        return self.attn.c_proj

    def mlp_post(self, resid: Resid) -> Neurons:
        """The neurons behind the second layer norm."""
        mlp = self.layer.mlp
        return activate(mlp.act, mlp.c_fc(self.layer.ln_2(resid)))

    def mlp_down(self, mlp_post: Neurons) -> Resid:
        """The down projection."""
        out: Tensor = self.layer.mlp.c_proj(mlp_post)
        return out


class GPT2Adapter(Adapter):
    """GPT-2 with its learned positions, and the base of the family that differs only inside a block.

    ModelError for layers that also attend to an encoder.
    """

    block: Callable[[HFModule], Block] = GPT2Block

    def __init__(self, model: PreTrainedModel) -> None:
        if model.config.add_cross_attention:
            raise ModelError(
                f"this {model.config.model_type} model has add_cross_attention=True, attention to an encoder; "
                "only decoders alone are supported"
            )
        self.model = model
        self.body = model.transformer
        self.blocks = tuple(type(self).block(layer) for layer in self.body.h)
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


__all__ = ["GPT2Adapter", "GPT2Block", "adapter"]
