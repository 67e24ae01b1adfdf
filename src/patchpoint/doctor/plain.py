"""The plain Hugging Face model: its logits and what its blocks put out, by hooks that leave nothing behind."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from patchpoint.engine import Model

Ids = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Plain:
    """One prompt through the untouched model, float32 on the CPU."""

    logits: Float[Tensor, "token vocab"]
    blocks: tuple[Float[Tensor, "token d_model"], ...]
    """The stream behind each block."""


@torch.no_grad()
def plain_run(model: Model, ids: Ids, shake: Callable[[Tensor], Tensor] = lambda stream: stream) -> Plain:
    """The model's own forward of one prompt; `shake` is made to the stream behind each block."""
    blocks: list[Tensor] = []

    def after(module: nn.Module, args: object, output: Any) -> Any:
        stream = shake(output[0] if isinstance(output, tuple) else output)
        # A copy: some models of transformers go on in the same storage.
        blocks.append(on_cpu(stream, copy=True).reshape(len(ids), -1))
        return (stream, *output[1:]) if isinstance(output, tuple) else stream

    with hooked([block.layer for block in model.adapter.blocks], after):
        row = torch.tensor([ids], device=model.device)
        logits = model.hf(input_ids=row, attention_mask=torch.ones_like(row), use_cache=False).logits
    return Plain(on_cpu(logits[0]), tuple(blocks))


@contextmanager
def hooked(modules: Sequence[nn.Module], hook: Callable[..., Any]) -> Iterator[None]:
    """A forward hook on each module, for the time being."""
    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(hook).remove)
        yield


@torch.no_grad()
def left_padded(model: Model, prompts: Sequence[Ids]) -> list[Float[Tensor, "token vocab"]]:
    """Logits of the prompts' own tokens from one batch padded on the left, as the model's documents tell to."""
    longest = max(len(ids) for ids in prompts)
    pads = [longest - len(ids) for ids in prompts]
    rows = [(prompts[0][0],) * n + ids for n, ids in zip(pads, prompts, strict=True)]
    mask = torch.tensor([[0] * n + [1] * (longest - n) for n in pads], device=model.device)
    inputs = {"input_ids": torch.tensor(rows, device=model.device), "attention_mask": mask}
    if takes_positions(model.hf):
        inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    logits = on_cpu(model.hf(**inputs, use_cache=False).logits)
    return [row[n:] for row, n in zip(logits, pads, strict=True)]


def takes_positions(hf: PreTrainedModel) -> bool:
    """Whether positions can be told to the model; others count them from the mask."""
    return "position_ids" in inspect.signature(hf.forward).parameters


def on_cpu(tensor: Tensor, *, copy: bool = False) -> Tensor:
    """As float32 on the CPU, where all comparing is done."""
    return tensor.detach().to("cpu", torch.float32, copy=copy)
