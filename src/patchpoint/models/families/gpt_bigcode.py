"""GPT-BigCode (SantaCoder, StarCoder): GPT-2 with one key/value head for all queries, in linear maps."""

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from .activations import activate
from .adapter import Adapter, HFModule, Neurons, Resid
from .fused import FusedBlock, Parts, in_turn, triples
from .gpt2 import GPT2Adapter


class GPTBigCodeBlock(FusedBlock):
    """One GPT-BigCode layer."""

    def __init__(self, layer: HFModule) -> None:
        self.layer = layer
        self.attn = layer.attn
        self.n_heads = self.attn.num_heads
        self.n_kv_heads = self.attn.kv_heads
        self.d_head = self.attn.head_dim
        self.d_mlp = layer.mlp.c_fc.out_features
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
        """All queries, the key and the value; or, without multi-query, head by head."""
        return in_turn(fused, self.n_heads, 1) if self.attn.multi_query else triples(fused, self.n_heads)

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


class GPTBigCodeAdapter(GPT2Adapter):
    """GPT-BigCode."""

    block = GPTBigCodeBlock


def adapter(model: PreTrainedModel) -> Adapter:
    """The GPT-BigCode adapter."""
    return GPTBigCodeAdapter(model)
