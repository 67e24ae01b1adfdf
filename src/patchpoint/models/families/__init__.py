"""The architecture families: one adapter per Hugging Face `model_type`."""

from collections.abc import Callable

from transformers import PreTrainedModel

from ...errors import UnsupportedFamily
from . import gpt2, llama
from .adapter import Adapter as Adapter
from .adapter import Block as Block
from .adapter import Rotary as Rotary

FAMILIES: dict[str, Callable[[PreTrainedModel], Adapter]] = {
    "gpt2": gpt2.adapter,
    "llama": llama.adapter,
}


def adapter_for(model: PreTrainedModel) -> Adapter:
    """The adapter of a loaded model; UnsupportedFamily names the supported ones."""
    model_type = model.config.model_type
    if model_type not in FAMILIES:
        raise UnsupportedFamily(model_type, FAMILIES)
    return FAMILIES[model_type](model)
