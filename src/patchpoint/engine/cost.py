"""What a sweep costs before it is run: floating-point operations, memory, and the seconds they should take."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch

from .memory import GIB
from .plan import Chunks, Group
from .run import Run

if TYPE_CHECKING:
    from .model import Model

RATE_SIZE = 2048
RATE_SECONDS = 0.3
USUAL_SHARE = 0.75
"""Share of the matrix-product rate at which sweeps usually run (`patchpoint bench engine` measures it)."""


@dataclass(frozen=True)
class SweepPlan:
    """A sweep before it is run. `seconds` is an estimate from this machine's matrix-product rate."""

    variants: int
    units: int
    """Pairs of variant and prompt that can differ from the base at the final token."""
    chunks: int
    flops: int
    gib: float
    """Largest memory that the sweep takes beside model and base run."""
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.variants} variants, {self.units} units in {self.chunks} chunks: {self.flops / 1e9:,.1f} GFLOP, "
            f"up to {self.gib:.2f} GiB, about {self.seconds:,.1f} s"
        )


@dataclass(frozen=True)
class BlockCost:
    """Floating-point operations of one block: per token for each part, per query-key pair for attention."""

    q: int
    kv: int
    rest: int
    """Output projection and MLP."""
    pair: int


def block_cost(model: "Model", layer: int) -> BlockCost:
    """Costs of a block, from the sizes of its weight matrices; of experts those that a token uses."""
    block, config = model.adapter.blocks[layer], model.hf.config
    width, kv_width = block.n_heads * block.d_head, 2 * block.n_kv_heads * block.d_head
    matrices = sum(p.numel() for p in block.layer.parameters() if p.ndim == 2)
    if block.d_mlp is None:
        experts = sum(p.numel() for p in block.layer.parameters() if p.ndim == 3)
        matrices += experts * config.num_experts_per_tok // config.num_local_experts
    q, kv = 2 * model.d_model * width, 2 * model.d_model * kv_width
    return BlockCost(q, kv, 2 * matrices - q - kv, 4 * width)


def chunk_flops(base: Run, groups: Sequence[Group]) -> list[int]:
    """Floating-point operations of a chunk, block by block, those of its answers' logits left out."""
    n_layers = base.model.n_layers
    costs = [block_cost(base.model, layer) for layer in range(n_layers)]
    return [
        sum(_group_flops(cost, group, layer, n_layers) for group in groups)
        for layer, cost in enumerate(costs)
    ]


def _group_flops(cost: BlockCost, group: Group, layer: int, n_layers: int) -> int:
    older, working, entered = (group.entered_before(k) for k in (layer - 1, layer, layer + 1))
    width, n_tokens = group.width, group.n_tokens
    changed = sum(len(unit.first_changed) for unit in group.units[older:working])
    projected = older * width + changed
    entering = sum(unit.n_recomputed for unit in group.units[working:entered]) * cost.rest
    if layer == n_layers - 1:
        return working * (cost.q + cost.rest + n_tokens * cost.pair) + projected * cost.kv + entering
    pairs = sum(range(group.first + 1, n_tokens + 1))
    mixed = working * (width * cost.rest + pairs * cost.pair)
    return projected * (cost.q + cost.kv) + mixed + entering


@cache
def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of large square matrix products, measured once per process."""
    return measured_rate(device, dtype, RATE_SECONDS)


def measured_rate(device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    """Floating-point operations per second of large square matrix products, sustained for some time."""
    a, b = (torch.randn(RATE_SIZE, RATE_SIZE, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    torch.mm(a, b, out=out)
    products, spent = 0, 0.0
    while spent < seconds:
        spent += _seconds_of_product(a, b, out)
        products += 1
    return 2 * RATE_SIZE**3 * products / spent


def _seconds_of_product(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> float:
    synchronize(a.device)
    begun = time.perf_counter()
    torch.mm(a, b, out=out)
    synchronize(a.device)
    return time.perf_counter() - begun


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what was asked, so that a clock reading means something."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def plan_of(base: Run, n_variants: int, chunks: Chunks) -> SweepPlan:
    """What a sweep's chunks will take."""
    units = sum(len(group.units) for groups in chunks.groups for group in groups)
    flops = sum(sum(chunk_flops(base, groups)) for groups in chunks.groups)
    rate = matmul_rate(base.model.device, base.model.dtype)
    seconds = flops / rate / USUAL_SHARE
    return SweepPlan(n_variants, units, len(chunks.groups), flops, chunks.n_bytes / GIB, seconds)
