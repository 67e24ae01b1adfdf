"""What a researcher writes without this project: one hooked forward pass of all prompts per head or MLP."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from patchpoint.engine import Batch, Model
from patchpoint.engine.graph.nodes import Node
from patchpoint.tasks.prompts import Prompts

from .timing import seconds_of

Outputs = dict[tuple[str, int], Tensor]
"""By kind of node and layer, outputs [prompt, token, width]; those of heads side by side."""


@dataclass(frozen=True, eq=False)
class NodeLoop:
    """Logit differences of the nodes that were run, and what it took to prepare and to run each."""

    values: Float[Tensor, "node prompt"]
    setup_seconds: float
    seconds: tuple[float, ...]


@torch.no_grad()
def hook_loop_nodes(
    model: Model, prompts: Prompts, nodes: Sequence[Node], stand_in: Callable[[Tensor], Tensor]
) -> NodeLoop:
    """The logit difference of each clean prompt, one node's output replaced at every token.

    `stand_in` makes the replacement from the outputs on the corrupted prompts: themselves, or their mean.
    """
    device = model.device
    found: Outputs = {}

    def prepare() -> None:
        found.update({key: stand_in(output) for key, output in outputs_of(model, prompts.corrupt).items()})

    setup = seconds_of(prepare, device)
    ids = torch.tensor(prompts.clean.tokens, device=device)
    right, wrong = (
        torch.tensor(t, device=device) for t in (prompts.correct_tokens, prompts.incorrect_tokens)
    )
    rows: list[Tensor] = []

    def run_one(node: Node) -> None:
        with _hooked([_replacing(model, node, found[node.kind, node.layer])]):
            logits = model.hf(ids).logits[:, -1]
        difference = logits.gather(1, right[:, None]) - logits.gather(1, wrong[:, None])
        rows.append(difference[:, 0].float().cpu())

    seconds = [seconds_of(lambda node=node: run_one(node), device) for node in nodes]  # type: ignore[misc]
    return NodeLoop(torch.stack(rows), setup, tuple(seconds))


def outputs_of(model: Model, batch: Batch) -> Outputs:
    """What every head and MLP puts out, from one forward pass of the plain model over prompts of one length."""
    found: Outputs = {}
    handles = []
    for layer, block in enumerate(model.adapter.blocks):
        handles += [
            block.out_proj.register_forward_pre_hook(_keep_input(found, ("head", layer))),
            block.layer.mlp.register_forward_hook(_keep_output(found, ("mlp", layer))),
        ]
    with _hooked(handles):
        model.hf(torch.tensor(batch.tokens, device=model.device))
    return found


def _keep_input(found: Outputs, key: tuple[str, int]) -> Any:
    def hook(module: object, args: tuple[Tensor, ...]) -> None:
        found[key] = args[0].clone()

    return hook


def _keep_output(found: Outputs, key: tuple[str, int]) -> Any:
    def hook(module: object, args: object, output: Tensor) -> None:
        found[key] = output.clone()

    return hook


def _replacing(model: Model, node: Node, values: Tensor) -> RemovableHandle:
    """The hook that puts other values in the place of a node's output."""
    block = model.adapter.blocks[node.layer]
    columns = slice(node.head * block.d_head, (node.head + 1) * block.d_head)

    def head(module: object, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        z = args[0].clone()
        z[..., columns] = values[..., columns]
        return (z, *args[1:])

    def mlp(module: object, args: object, output: Tensor) -> Tensor:
        return values.expand_as(output)

    handle: RemovableHandle = (
        block.out_proj.register_forward_pre_hook(head)
        if node.kind == "head"
        else block.layer.mlp.register_forward_hook(mlp)
    )
    return handle


@contextmanager
def _hooked(handles: list[RemovableHandle]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
