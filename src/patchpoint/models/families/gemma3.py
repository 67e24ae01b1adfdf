"""Gemma 3, text: Gemma 2 with norms on queries and keys and two kinds of rotation instead of score caps."""

from transformers import PreTrainedModel

from .adapter import Adapter, Heads, HFModule, KVHeads, Rotary
from .gemma import gemma_norm
from .gemma2 import Gemma2Adapter, Gemma2Block
from .kinds import kind_angles, own_angles, refuse_length_dependent


class Gemma3Block(Gemma2Block):
    """One Gemma 3 layer."""

    def __init__(self, layer: HFModule) -> None:
        super().__init__(layer)
        # transformers keeps this setting from Gemma 2 but its attention does not read it
        self.softcap = None

    def finish_q(self, q: Heads, rotary: Rotary | None) -> Heads:
        """Normed head by head, and rotated as this kind of layer does."""
        own = own_angles(rotary, self.attn.config, self.attn.layer_idx)
        return super().finish_q(gemma_norm(self.attn.q_norm, q), own)

    def finish_k(self, k: KVHeads, rotary: Rotary | None) -> KVHeads:
        """Normed head by head, and rotated as this kind of layer does."""
        own = own_angles(rotary, self.attn.config, self.attn.layer_idx)
        return super().finish_k(gemma_norm(self.attn.k_norm, k), own)


class Gemma3Adapter(Gemma2Adapter):
    """Gemma 3. ModelError for rope types whose angles depend on the prompt's length."""

    block = Gemma3Block

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        refuse_length_dependent(self.body.rotary_emb, model)

    def rotary(self, n_tokens: int) -> Rotary | None:
        """The model's own rotary tables for this length, one for each kind of layer."""
        return kind_angles(self.body.rotary_emb, self.model, n_tokens)


def adapter(model: PreTrainedModel) -> Adapter:
    """The Gemma 3 adapter."""
    return Gemma3Adapter(model)
