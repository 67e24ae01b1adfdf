"""What must hold of a model before numbers from it can be trusted."""

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from patchpoint.errors import InvalidArgument, ModelError

from .model import stored_tensors
from .placement import is_spread

DROPOUTS = ("p", "dropout", "attention_dropout", "activation_dropout", "attn_dropout")
"""Attributes with which modules of transformers hold a dropout probability."""


def check_model(hf: PreTrainedModel) -> None:
    """Refuse a model spread over devices by hand, with dropout at work, or with a NaN or Inf."""
    devices = sorted({str(parameter.device) for parameter in hf.parameters()})
    if not is_spread(hf) and (len(devices) > 1 or devices == ["meta"]):
        raise ModelError(
            f"the weights lie on {', '.join(devices)}; put the whole model on one device, or load it with device_map="
        )
    if module := dropping(hf):
        raise ModelError(f"dropout is at work in {module} (training mode); call model.eval() first")
    for name, tensor in stored_tensors(hf):
        if tensor.is_floating_point() and tensor.numel() and not all_finite(tensor):
            raise ModelError(
                f"{name} has NaN or Inf values as {str(tensor.dtype).removeprefix('torch.')}; "
                "replace the file, or give a dtype of wider range"
            )


def all_finite(tensor: torch.Tensor) -> bool:
    """Whether no value is NaN or infinite, without a tensor of flags: both show in the extremes."""
    low, high = torch.aminmax(tensor.detach())
    return bool(torch.isfinite(low) and torch.isfinite(high))


def dropping(hf: PreTrainedModel) -> str | None:
    """The first module that would drop values at random, by name."""
    for name, module in hf.named_modules():
        if module.training and any(rate > 0 for rate in dropout_rates(module)):
            return name or type(module).__name__
    return None


def dropout_rates(module: nn.Module) -> list[float]:
    """Dropout probabilities that a module holds itself."""
    found = [getattr(module, name, None) for name in DROPOUTS]
    return [rate for rate in found if isinstance(rate, float)]


def check_tokenizer(tokenizer: object, hf: PreTrainedModel) -> PreTrainedTokenizerBase:
    """The tokenizer, if it is one and its ids all have an embedding; else InvalidArgument, ModelError."""
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise InvalidArgument(
            f"a tokenizer of transformers is expected, got {type(tokenizer).__name__}; "
            "give tokenizer=AutoTokenizer.from_pretrained(...)"
        )
    ids = tokenizer.get_vocab().values()
    rows = hf.get_input_embeddings().num_embeddings
    if not ids:
        raise ModelError("the tokenizer has no vocabulary; give the model's own tokenizer")
    if max(ids) >= rows:
        raise ModelError(
            f"the tokenizer has ids up to {max(ids)}, the model's embedding only {rows} rows; "
            "give the model's own tokenizer"
        )
    return tokenizer
