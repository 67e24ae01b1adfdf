"""Cohere 2 (Command R7B): Cohere with windows in most layers, and positions only in those."""

from transformers import PreTrainedModel

from .adapter import Adapter, Heads, HFModule, KVHeads, Rotary
from .cohere import CohereAdapter, CohereBlock
from .windows import layer_window


class Cohere2Block(CohereBlock):
    """One Cohere 2 layer."""

    def __init__(self, layer: HFModule) -> None:
        super().__init__(layer)
        self.window = layer_window(self.attn.config, self.attn.layer_idx)

    def finish_q(self, q: Heads, rotary: Rotary | None) -> Heads:
        """Rotated where there is a window."""
        return q if self.attn.sliding_window is None else super().finish_q(q, rotary)

    def finish_k(self, k: KVHeads, rotary: Rotary | None) -> KVHeads:
        """Rotated where there is a window."""
        return k if self.attn.sliding_window is None else super().finish_k(k, rotary)


class Cohere2Adapter(CohereAdapter):
    """Cohere 2."""

    block = Cohere2Block


def adapter(model: PreTrainedModel) -> Adapter:
    """The Cohere 2 adapter."""
    return Cohere2Adapter(model)
