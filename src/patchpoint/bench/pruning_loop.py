"""What a researcher writes without this project to prune nodes: for every candidate all prompts through the whole
plain model, every removed node's output replaced by a hook.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from patchpoint.engine import Batch, Model
from patchpoint.engine.graph.nodes import Node
from patchpoint.tasks.prompts import Prompts

Means = Mapping[tuple[str, int], Tensor]
"""By kind of node and layer, mean outputs [token, width]; those of heads side by side."""
NOTHING: frozenset[Node] = frozenset()


@torch.no_grad()
def means_of(model: Model, batch: Batch, removed: Collection[Node], means: Means) -> Means:
    """Mean outputs at each position over prompts of one length, in a model without some nodes."""
    found: dict[tuple[str, int], Tensor] = {}
    ids = torch.tensor(batch.tokens, device=model.device)
    with _hooked([*_replaced(model, removed, means), *_recorded(model, found)]):
        model.hf(ids, logits_to_keep=1)
    return found


@torch.no_grad()
def mean_difference(model: Model, prompts: Prompts, removed: Collection[Node], means: Means) -> float:
    """The mean logit difference of the clean prompts without some nodes, only final tokens' logits computed."""
    device = model.device
    ids = torch.tensor(prompts.clean.tokens, device=device)
    right, wrong = (
        torch.tensor(t, device=device)[:, None] for t in (prompts.correct_tokens, prompts.incorrect_tokens)
    )
    with _hooked(list(_replaced(model, removed, means))):
        logits = model.hf(ids, logits_to_keep=1).logits[:, -1]
    return float((logits.gather(1, right) - logits.gather(1, wrong)).double().mean())


def study_difference(model: Model, prompts: Prompts, removed: Collection[Node]) -> float:
    """As the published code: both means anew for each candidate, those of MLPs with the removed heads gone."""
    heads = [node for node in removed if node.kind == "head"]
    of_heads = means_of(model, prompts.corrupt, NOTHING, {})
    of_mlps = means_of(model, prompts.corrupt, heads, of_heads)
    means = {key: (of_heads if key[0] == "head" else of_mlps)[key] for key in of_heads}
    return mean_difference(model, prompts, removed, means)


def _replaced(model: Model, removed: Collection[Node], means: Means) -> Iterator[RemovableHandle]:
    for layer, block in enumerate(model.adapter.blocks):
        heads = [node.head for node in removed if node.layer == layer and node.kind == "head"]
        if heads:
            chosen = torch.zeros(block.n_heads, block.d_head, dtype=torch.bool, device=model.device)
            chosen[heads] = True
            hook = _replacing_heads(chosen.flatten(), means["head", layer])
            yield block.out_proj.register_forward_pre_hook(hook)
        if Node("mlp", layer) in removed:
            yield block.layer.mlp.register_forward_hook(_replacing(means["mlp", layer]))


def _replacing_heads(columns: Tensor, mean: Tensor) -> Callable[..., Any]:
    def hook(module: object, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (torch.where(columns, mean, args[0]), *args[1:])

    return hook


def _replacing(mean: Tensor) -> Callable[..., Any]:
    def hook(module: object, args: object, output: Tensor) -> Tensor:
        return mean.expand_as(output)

    return hook


def _recorded(model: Model, found: dict[tuple[str, int], Tensor]) -> Iterator[RemovableHandle]:
    def of_input(key: tuple[str, int]) -> Callable[..., None]:
        def hook(module: object, args: tuple[Tensor, ...]) -> None:
            found[key] = args[0].mean(0)

        return hook

    def of_output(key: tuple[str, int]) -> Callable[..., None]:
        def hook(module: object, args: object, output: Tensor) -> None:
            found[key] = output.mean(0)

        return hook

    for layer, block in enumerate(model.adapter.blocks):
        yield block.out_proj.register_forward_pre_hook(of_input(("head", layer)))
        yield block.layer.mlp.register_forward_hook(of_output(("mlp", layer)))


@contextmanager
def _hooked(handles: list[RemovableHandle]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
