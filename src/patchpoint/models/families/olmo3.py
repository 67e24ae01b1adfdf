"""OLMo 3: OLMo 2 with windows in most layers, and rotation by kind of layer."""

from transformers import PreTrainedModel

from .adapter import Adapter, Heads, HFModule, KVHeads, Rotary
from .kinds import kind_angles, own_angles, refuse_length_dependent
from .olmo2 import Olmo2Adapter, Olmo2Block
from .windows import layer_window


class Olmo3Block(Olmo2Block):
    """One OLMo 3 layer."""

    def __init__(self, layer: HFModule) -> None:
        super().__init__(layer)
        self.window = layer_window(self.attn.config, self.attn.layer_idx)

    def finish_q(self, q: Heads, rotary: Rotary | None) -> Heads:
        """Normed over all heads together, and rotated as this kind of layer does."""
        return super().finish_q(q, own_angles(rotary, self.attn.config, self.attn.layer_idx))

    def finish_k(self, k: KVHeads, rotary: Rotary | None) -> KVHeads:
        """As `finish_q`, over all key heads together."""
        return super().finish_k(k, own_angles(rotary, self.attn.config, self.attn.layer_idx))


class Olmo3Adapter(Olmo2Adapter):
    """OLMo 3. ModelError for rope types whose angles depend on the prompt's length."""

    block = Olmo3Block

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        refuse_length_dependent(self.body.rotary_emb, model)

    def rotary(self, n_tokens: int) -> Rotary | None:
        """The model's own rotary tables for this length, one for each kind of layer."""
        return kind_angles(self.body.rotary_emb, self.model, n_tokens)


def adapter(model: PreTrainedModel) -> Adapter:
    """The OLMo 3 adapter."""
    return Olmo3Adapter(model)
