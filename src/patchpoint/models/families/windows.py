"""Attention windows of the families that name a kind of attention for each layer."""

from transformers import PreTrainedConfig

from patchpoint.errors import ModelError


def layer_window(config: PreTrainedConfig, layer: int) -> int | None:
    """Tokens, itself included, that a token of this layer attends to; None: all before it.

    ModelError for a kind of attention other than full or sliding, or a sliding layer without a window size.
    """
    kind = config.layer_types[layer]
    if kind == "full_attention":
        return None
    if kind != "sliding_attention":
        raise ModelError(
            f"config.layer_types of this {config.model_type} model gives layer {layer} {kind!r}; "
            "only 'full_attention' and 'sliding_attention' are supported"
        )
    if config.sliding_window is None:
        raise ModelError(
            f"config.layer_types of this {config.model_type} model gives layer {layer} 'sliding_attention', "
            "but config.sliding_window is None; set it to the window's number of tokens"
        )
    window: int = config.sliding_window
    return window
