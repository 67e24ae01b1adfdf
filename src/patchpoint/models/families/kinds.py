"""Angles of the families that rotate each kind of layer, full or sliding, in its own way."""

from transformers import PreTrainedConfig, PreTrainedModel

from patchpoint.errors import ModelError

from .adapter import HFModule, Rotary, positions_of
from .rotation import LENGTH_DEPENDENT


def kinds_of(config: PreTrainedConfig) -> list[str]:
    """The kinds of layer of a model, in the order in which a row of angles holds theirs."""
    return sorted(set(config.layer_types))


def refuse_length_dependent(module: HFModule, model: PreTrainedModel) -> None:
    """ModelError for a rope type whose angles depend on the prompt's length, in any kind of layer."""
    for kind, rope_type in module.rope_type.items():
        if rope_type in LENGTH_DEPENDENT:
            raise ModelError(
                f"config.rope_parameters of this {model.config.model_type} model gives {kind!r} rope_type "
                f"{rope_type!r}; only types whose angles do not depend on the prompt's length are supported"
            )


def kind_angles(module: HFModule, model: PreTrainedModel, n_tokens: int) -> Rotary:
    """Angles of a prompt of `n_tokens` tokens, those of all kinds of layer side by side in each row."""
    weight, places = model.get_input_embeddings().weight, positions_of(n_tokens, model)
    tables = [module(weight, places, kind) for kind in kinds_of(model.config)]
    return Rotary.beside([Rotary(cos[0], sin[0]) for cos, sin in tables])


def own_angles(rotary: Rotary | None, config: PreTrainedConfig, layer: int) -> Rotary:
    """The angles of one layer's kind out of `kind_angles`."""
    assert rotary is not None
    kinds = kinds_of(config)
    number = kinds.index(config.layer_types[layer])
    cos, sin = (part.chunk(len(kinds), dim=1)[number] for part in (rotary.cos, rotary.sin))
    return Rotary(cos, sin)
