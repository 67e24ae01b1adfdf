"""The architecture families: one adapter per Hugging Face `model_type`."""

from collections.abc import Callable

from transformers import PreTrainedModel

from patchpoint.errors import ModelError, UnsupportedFamily

from . import (
    bloom,
    codegen,
    cohere,
    cohere2,
    exaone4,
    falcon,
    gemma,
    gemma2,
    gemma3,
    glm,
    glm4,
    gpt2,
    gpt_bigcode,
    gpt_neo,
    gpt_neox,
    gptj,
    granite,
    llama,
    mistral,
    mixtral,
    mpt,
    nemotron,
    olmo,
    olmo2,
    olmo3,
    opt,
    phi,
    phi3,
    qwen2,
    qwen3,
    smollm3,
    stablelm,
    starcoder2,
)
from .adapter import Adapter as Adapter
from .adapter import Block as Block
from .adapter import Rotary as Rotary

FAMILIES: dict[str, Callable[[PreTrainedModel], Adapter]] = {
    "gpt2": gpt2.adapter,
    "gpt_neo": gpt_neo.adapter,
    "gptj": gptj.adapter,
    "gpt_neox": gpt_neox.adapter,
    "opt": opt.adapter,
    "llama": llama.adapter,
    "mistral": mistral.adapter,
    "qwen2": qwen2.adapter,
    "qwen3": qwen3.adapter,
    "gemma": gemma.adapter,
    "gemma2": gemma2.adapter,
    "phi": phi.adapter,
    "phi3": phi3.adapter,
    "gemma3_text": gemma3.adapter,
    "olmo2": olmo2.adapter,
    "olmo3": olmo3.adapter,
    "olmo": olmo.adapter,
    "mixtral": mixtral.adapter,
    "granite": granite.adapter,
    "cohere": cohere.adapter,
    "cohere2": cohere2.adapter,
    "stablelm": stablelm.adapter,
    "starcoder2": starcoder2.adapter,
    "nemotron": nemotron.adapter,
    "smollm3": smollm3.adapter,
    "glm": glm.adapter,
    "glm4": glm4.adapter,
    "exaone4": exaone4.adapter,
    "codegen": codegen.adapter,
    "gpt_bigcode": gpt_bigcode.adapter,
    "falcon": falcon.adapter,
    "bloom": bloom.adapter,
    "mpt": mpt.adapter,
}


def adapter_for(model: PreTrainedModel) -> Adapter:
    """The adapter of a loaded model.

    UnsupportedFamily names the supported ones; ModelError names what no adapter reproduces.
    """
    model_type = model.config.model_type
    if model_type not in FAMILIES:
        raise UnsupportedFamily(model_type, FAMILIES)
    _refuse_unreproducible(model)
    return FAMILIES[model_type](model)


def _refuse_unreproducible(model: PreTrainedModel) -> None:
    """ModelError for what transformers lets any model have and every adapter would silently get wrong."""
    name, config = type(model).__name__, model.config
    if not hasattr(model, "lm_head"):
        raise ModelError(f"{name} has no lm_head; load it with AutoModelForCausalLM")
    if not getattr(config, "is_causal", True):
        raise ModelError(f"{name} has config.is_causal=False; only causal attention is supported")
    if getattr(config, "use_bidirectional_attention", None):
        raise ModelError(
            f"{name} has config.use_bidirectional_attention=True; only causal attention is supported"
        )
