"""What a researcher writes without this project: one hooked forward pass per site on the plain model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from patchpoint.engine import Model


@torch.no_grad()
def hook_loop_trace(
    model: Model,
    ids: tuple[int, ...],
    subject_span: tuple[int, int],
    noise: Float[Tensor, "sample token d_embed"],
    answer: int,
) -> Float[Tensor, "token layer sample"]:
    """Probability of the answer with each residual state restored: samples of one site are one batch."""
    hf, device = model.hf, model.device
    blocks = [block.layer for block in model.adapter.blocks]
    one = torch.tensor([ids], device=device)
    batch = one.expand(len(noise), -1)
    clean: list[Tensor] = []
    with _hooks([(block, _keep_into(clean)) for block in blocks]):
        hf(one)
    corrupt = (hf.get_input_embeddings(), _add(noise.to(device, model.dtype), slice(*subject_span)))
    rows = []
    for token in range(len(ids)):
        for layer, block in enumerate(blocks):
            with _hooks([corrupt, (block, _restore(clean[layer], token))]):
                logits = hf(batch).logits[:, -1]
            rows.append(logits.float().softmax(-1)[:, answer])
    return torch.stack(rows).view(len(ids), len(blocks), -1)


Hook = Any


@contextmanager
def _hooks(hooks: list[tuple[nn.Module, Hook]]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _keep_into(states: list[Tensor]) -> Hook:
    def hook(module: nn.Module, args: object, output: Any) -> None:
        states.append((output[0] if isinstance(output, tuple) else output).clone())

    return hook


def _add(noise: Tensor, tokens: slice) -> Hook:
    def hook(module: nn.Module, args: object, output: Tensor) -> Tensor:
        output = output.clone()
        output[:, tokens] += noise
        return output

    return hook


def _restore(clean: Tensor, token: int) -> Hook:
    def hook(module: nn.Module, args: object, output: Any) -> Any:
        state = (output[0] if isinstance(output, tuple) else output).clone()
        state[:, token] = clean[:, token]
        return (state, *output[1:]) if isinstance(output, tuple) else state

    return hook
