"""StableLM: Llama with layer norms and partial rotation, in some sizes parallel or with norms per head."""

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from .adapter import Adapter, Heads, HFModule, KVHeads, Neurons, Resid, Rotary
from .llama import LlamaAdapter, LlamaBlock, gated_neurons


class StableLmBlock(LlamaBlock):
    """One StableLM layer."""

    def __init__(self, layer: HFModule) -> None:
        super().__init__(layer)
        self.parallel = layer.use_parallel_residual

    def attn_in(self, resid: Resid) -> Resid:
        """The stream after the input layer norm."""
        out: Tensor = self.layer.input_layernorm(resid)
        return out

    def finish_q(self, q: Heads, rotary: Rotary | None) -> Heads:
        """Partly rotated, behind each head's own layer norm if there is one."""
        return super().finish_q(_by_head(self.attn.q_layernorm, q) if self.attn.qk_layernorm else q, rotary)

    def finish_k(self, k: KVHeads, rotary: Rotary | None) -> KVHeads:
        """As `finish_q`."""
        return super().finish_k(_by_head(self.attn.k_layernorm, k) if self.attn.qk_layernorm else k, rotary)

    def mlp_post(self, resid: Resid) -> Neurons:
        """The gated neurons behind the MLP's layer norm; a parallel block shares attention's."""
        layer = self.layer
        norm = layer.input_layernorm if self.parallel else layer.post_attention_layernorm
        return gated_neurons(layer.mlp, norm(resid))


def _by_head(norms: HFModule, x: Heads) -> Heads:
    out: Tensor = norms(x.transpose(0, 1)[None])[0].transpose(0, 1)
    return out


class StableLmAdapter(LlamaAdapter):
    """StableLM."""

    block = StableLmBlock

    def final(self, resid: Resid) -> Float[Tensor, "row d_final"]:
        """The final layer norm."""
        out: Tensor = self.body.norm(resid)
        return out


def adapter(model: PreTrainedModel) -> Adapter:
    """The StableLM adapter."""
    return StableLmAdapter(model)
