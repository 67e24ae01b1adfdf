"""Qwen2: Llama with biases on q/k/v and, where the config asks for it, attention windows in some layers."""

from transformers import PreTrainedModel

from .adapter import Adapter, HFModule
from .llama import LlamaAdapter, LlamaBlock
from .windows import layer_window


class Qwen2Block(LlamaBlock):
    """One Qwen2 layer: the projections carry the biases themselves."""

    def __init__(self, layer: HFModule) -> None:
        super().__init__(layer)
        self.window = layer_window(self.attn.config, self.attn.layer_idx)


class Qwen2Adapter(LlamaAdapter):
    """Qwen2."""

    block = Qwen2Block


def adapter(model: PreTrainedModel) -> Adapter:
    """The Qwen2 adapter."""
    return Qwen2Adapter(model)


__all__ = ["Qwen2Adapter", "Qwen2Block", "adapter"]
