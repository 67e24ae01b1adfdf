"""SmolLM3: Llama without positions in some layers and, where the config asks for it, with windows."""

from transformers import PreTrainedModel

from .adapter import Adapter, Heads, HFModule, KVHeads, Rotary
from .llama import LlamaAdapter, LlamaBlock
from .windows import layer_window


class SmolLM3Block(LlamaBlock):
    """One SmolLM3 layer."""

    def __init__(self, layer: HFModule) -> None:
        super().__init__(layer)
        self.window = layer_window(self.attn.config, self.attn.layer_idx)

    def finish_q(self, q: Heads, rotary: Rotary | None) -> Heads:
        """Rotated where the layer uses positions."""
        return super().finish_q(q, rotary) if self.attn.use_rope else q

    def finish_k(self, k: KVHeads, rotary: Rotary | None) -> KVHeads:
        """Rotated where the layer uses positions."""
        return super().finish_k(k, rotary) if self.attn.use_rope else k


class SmolLM3Adapter(LlamaAdapter):
    """SmolLM3."""

    block = SmolLM3Block


def adapter(model: PreTrainedModel) -> Adapter:
    """The SmolLM3 adapter."""
    return SmolLM3Adapter(model)
