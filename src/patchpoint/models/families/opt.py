"""OPT: layer norms, learned positions from row 2 of their table, narrower embeddings in some sizes."""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from patchpoint.errors import ModelError

from .activations import activate
from .adapter import Adapter, HFModule, Neurons, Resid, Rotary
from .separate import SeparateBlock


class OPTBlock(SeparateBlock):
    """One OPT layer: three unrotated projections."""

    def __init__(self, layer: HFModule) -> None:
        self.layer = layer
        self.attn = layer.self_attn
        self.d_mlp = layer.fc1.out_features
        self.n_heads = self.n_kv_heads = self.attn.num_heads
        self.d_head = self.attn.head_dim
        self.scale = self.attn.scaling

    def attn_in(self, resid: Resid) -> Resid:
        """The stream after the first layer norm."""
        out: Tensor = self.layer.self_attn_layer_norm(resid)
        return out

    @property
    def out_proj(self) -> HFModule:
        """The output projection."""
        return self.attn.out_proj

    def mlp_post(self, resid: Resid) -> Neurons:
        """The neurons behind the layer norm that this family calls final in every layer."""
        layer = self.layer
        return activate(layer.activation_fn, layer.fc1(layer.final_layer_norm(resid)))

    def mlp_down(self, mlp_post: Neurons) -> Resid:
        """The down projection."""
        out: Tensor = self.layer.fc2(mlp_post)
        return out


class OPTAdapter(Adapter):
    """OPT with its learned positions. ModelError where norms come after attention and MLP (OPT-350m)."""

    def __init__(self, model: PreTrainedModel) -> None:
        if not model.config.do_layer_norm_before:
            raise ModelError(
                "this OPT model has do_layer_norm_before=False (as OPT-350m has): its norms rewrite the "
                "stream that attention and MLP should add to; use an OPT with do_layer_norm_before=True"
            )
        self.model = model
        self.body = model.model.decoder
        self.blocks = tuple(OPTBlock(layer) for layer in self.body.layers)
        self.d_model = model.config.hidden_size
        self.d_vocab = model.lm_head.weight.shape[0]
        self.max_tokens = model.config.max_position_embeddings

    def embed(self, ids: Int[Tensor, " row"]) -> Float[Tensor, "row d_embed"]:
        """Token embeddings, before their projection to the model's width and before positions."""
        out: Tensor = self.body.embed_tokens(ids)
        return out

    def resid_pre(self, embed: Float[Tensor, "row d_embed"], positions: Int[Tensor, " row"]) -> Resid:
        """Embeddings, projected where they are narrower than the stream, plus learned positions."""
        table = self.body.embed_positions
        wide = embed if self.body.project_in is None else self.body.project_in(embed)
        out: Tensor = wide + F.embedding(positions + table.offset, table.weight)
        return out

    def rotary(self, n_tokens: int) -> Rotary | None:
        """None: positions are in the stream."""
        return None

    def final(self, resid: Resid) -> Float[Tensor, "row d_final"]:
        """The final layer norm, absent in old checkpoints, and the projection to the embeddings' width."""
        norm, project_out = self.body.final_layer_norm, self.body.project_out
        normed = resid.clone() if norm is None else norm(resid)
        out: Tensor = normed if project_out is None else project_out(normed)
        return out


def adapter(model: PreTrainedModel) -> Adapter:
    """The OPT adapter."""
    return OPTAdapter(model)
