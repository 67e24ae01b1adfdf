"""Patching every head and knocking out every node: the sweep, the hook loop and the machine's limit."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from patchpoint.circuits import ablate_nodes_by_prompt, patch_heads_by_prompt
from patchpoint.engine import Model
from patchpoint.engine.graph.nodes import Node, senders
from patchpoint.tasks.prompts import Prompts

from .limit import nodes_flops
from .node_loop import hook_loop_nodes
from .pairs import random_pairs
from .timing import Comparison, check_positive, timed_rounds

EVERY = 7
"""The loop runs every so many nodes: no divisor of the usual numbers of heads, so that all kinds come up."""


@dataclass(frozen=True, kw_only=True)
class NodeBench(Comparison):
    """One node at a time compared; `max_difference` is of one prompt's logit difference in units of the logits'
    standard deviation. `loop_seconds` is for all nodes: the median of the samples times the number of nodes."""

    row: str
    n_prompts: int
    n_nodes: int
    loop_samples: int
    """Nodes that the loop really ran."""
    loop_spread: tuple[float, float]
    """As `loop_seconds`, from the fastest and from the slowest sample."""


def bench_patch_heads(
    model: Model,
    *,
    n_prompts: int = 16,
    n_tokens: int = 14,
    first: int = 9,
    rounds: int = 3,
    every: int = EVERY,
    seed: int = 0,
) -> NodeBench:
    """`pp.patch_heads` of all heads' z on pairs of `n_tokens` tokens that differ from token `first` on."""
    check_positive(rounds=rounds, every=every)
    prompts = random_pairs(model, n_prompts, n_tokens, first, seed)

    def sweep() -> np.ndarray:
        values: np.ndarray = patch_heads_by_prompt(model, prompts).values
        return values.reshape(-1, n_prompts)

    heads = [node for node in senders(model) if node.kind == "head"]
    return _compared("patch_heads", model, prompts, first, heads, sweep, lambda z: z, rounds, every)


def bench_ablate_nodes(
    model: Model,
    *,
    n_prompts: int = 64,
    n_tokens: int = 19,
    rounds: int = 3,
    every: int = EVERY,
    seed: int = 0,
) -> NodeBench:
    """`pp.ablate_nodes` of all heads and MLPs, each by its mean over the corrupted prompts at each position."""
    check_positive(rounds=rounds, every=every)
    prompts = random_pairs(model, n_prompts, n_tokens, 0, seed)

    def sweep() -> np.ndarray:
        values: np.ndarray = ablate_nodes_by_prompt(model, prompts, "mean").values
        return values

    nodes = senders(model)[1:]
    return _compared("ablate_nodes", model, prompts, 0, nodes, sweep, _mean_over_prompts, rounds, every)


def _mean_over_prompts(outputs: Tensor) -> Tensor:
    return outputs.mean(0, keepdim=True)


def _compared(
    row: str,
    model: Model,
    prompts: Prompts,
    first: int,
    nodes: Sequence[Node],
    sweep: Callable[[], np.ndarray],
    stand_in: Callable[[Tensor], Tensor],
    rounds: int,
    every: int,
) -> NodeBench:
    swept: list[np.ndarray] = []
    taken = timed_rounds(model, lambda: swept.append(sweep()), rounds)
    loop = hook_loop_nodes(model, prompts, nodes[::every], stand_in)
    difference = np.abs(swept[-1][::every] - loop.values.numpy()).max()
    n_prompts, n_tokens = len(prompts.clean.tokens), len(prompts.clean.tokens[0])

    def of_all(seconds: float) -> float:
        return loop.setup_seconds + seconds * len(nodes)

    return NodeBench(
        row=row,
        model=model.name,
        n_prompts=n_prompts,
        n_tokens=n_tokens,
        n_nodes=len(nodes),
        sweep_seconds=taken.seconds,
        sweep_spread=taken.spread,
        loop_seconds=of_all(statistics.median(loop.seconds)),
        loop_samples=len(loop.seconds),
        loop_spread=(of_all(min(loop.seconds)), of_all(max(loop.seconds))),
        flops=n_prompts * nodes_flops(model, nodes, n_tokens, first),
        rate=taken.rate,
        peak_gib=taken.peak_gib,
        max_difference=float(difference) / _logit_scale(model, prompts),
    )


def _logit_scale(model: Model, prompts: Prompts) -> float:
    """Standard deviation over the logits of all prompts' final tokens."""
    with torch.no_grad():
        return float(model.run(prompts.clean, keep=()).logits.float().std())
