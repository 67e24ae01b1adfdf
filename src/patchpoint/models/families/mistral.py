"""Mistral: Llama with one attention window for all layers."""

from transformers import PreTrainedModel

from .adapter import Adapter, HFModule
from .llama import LlamaAdapter, LlamaBlock


class MistralBlock(LlamaBlock):
    """One Mistral layer."""

    def __init__(self, layer: HFModule) -> None:
        super().__init__(layer)
        self.window = self.attn.config.sliding_window


class MistralAdapter(LlamaAdapter):
    """Mistral."""

    block = MistralBlock


def adapter(model: PreTrainedModel) -> Adapter:
    """The Mistral adapter."""
    return MistralAdapter(model)
