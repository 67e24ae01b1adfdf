"""Gemma 3, text: Gemma 2 with norms on queries and keys and two kinds of rotation instead of score caps."""

from transformers import PreTrainedModel

from patchpoint.errors import ModelError

from .adapter import Adapter, Heads, HFModule, KVHeads, Rotary, positions_of
from .gemma import gemma_norm
from .gemma2 import Gemma2Adapter, Gemma2Block
from .rotation import LENGTH_DEPENDENT

class Gemma3Block(Gemma2Block):
    """One Gemma 3 layer."""

    def __init__(self, layer: HFModule) -> None:
        super().__init__(layer)
        # transformers keeps this setting from Gemma 2 but its attention does not read it
        self.softcap = None
        self.kind = sorted(set(self.attn.config.layer_types)).index(self.attn.layer_type)

    def finish_q(self, q: Heads, rotary: Rotary | None) -> Heads:
        """Normed head by head, and rotated as this kind of layer does."""
        return super().finish_q(gemma_norm(self.attn.q_norm, q), self._own(rotary))

    def finish_k(self, k: KVHeads, rotary: Rotary | None) -> KVHeads:
        """Normed head by head, and rotated as this kind of layer does."""
        return super().finish_k(gemma_norm(self.attn.k_norm, k), self._own(rotary))

    def _own(self, rotary: Rotary | None) -> Rotary:
        assert rotary is not None
        own = slice(self.kind * self.d_head, (self.kind + 1) * self.d_head)
        return Rotary(rotary.cos[:, own], rotary.sin[:, own])


class Gemma3Adapter(Gemma2Adapter):
    """Gemma 3. ModelError for rope types whose angles depend on the prompt's length."""

    block = Gemma3Block

    def __init__(self, model: PreTrainedModel) -> None:
        for kind, rope in model.model.rotary_emb.rope_type.items():
            if rope in LENGTH_DEPENDENT:
                raise ModelError(
                    f"config.rope_parameters of this gemma3 model gives {kind!r} rope_type {rope!r}; "
                    "only types whose angles do not depend on the prompt's length are supported"
                )
        super().__init__(model)

    def rotary(self, n_tokens: int) -> Rotary | None:
        """Angles of each kind of layer side by side, kinds in alphabetical order."""
        module, weight = self.body.rotary_emb, self.body.embed_tokens.weight
        places = positions_of(n_tokens, self.model)
        tables = [module(weight, places, kind) for kind in sorted(set(self.model.config.layer_types))]
        return Rotary.beside([Rotary(cos[0], sin[0]) for cos, sin in tables])


def adapter(model: PreTrainedModel) -> Adapter:
    """The Gemma 3 adapter."""
    return Gemma3Adapter(model)
