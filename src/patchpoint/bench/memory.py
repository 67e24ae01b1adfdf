"""A sweep that would need far more memory than it is given, in a fresh process per budget."""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from math import ceil
from multiprocessing import get_context
from typing import Any

import numpy as np

from patchpoint.engine import Edit, Model, Run, Site, sweep
from patchpoint.engine.memory import GIB
from patchpoint.engine.sources import Noise

from .pairs import random_pairs
from .timing import forget_peak, held_bytes, peak_bytes, seconds_of

BUDGETS = (1.0, 2.0, 4.0)
NEEDED_GIB = 20.5
"""What the sweep would take in one chunk, by its plan."""
UNBOUNDED_GIB = 2.0**20
BELOW_END = 2
"""The MLPs whose output is changed are this many layers from the end: all parts of a sweep are at work above them."""


@dataclass(frozen=True)
class MemoryRow:
    """One budget. `growth_gib` is how much the process grew at most while it swept, model and base run left out."""

    model: str
    n_variants: int
    n_prompts: int
    n_tokens: int
    budget_gib: float
    at_once_gib: float
    """What one chunk of everything would take, by the plan."""
    planned_gib: float
    n_chunks: int
    growth_gib: float
    seconds: float
    max_difference: float
    """Largest difference to the first budget's values, in units of the logits' standard deviation."""

    @property
    def within_budget(self) -> bool:
        """Whether the process grew by no more than its budget."""
        return self.growth_gib <= self.budget_gib

    def to_dict(self) -> dict[str, Any]:
        """Plain data of the row, for JSON."""
        return {**asdict(self), "within_budget": self.within_budget}


@dataclass(frozen=True)
class MemoryTask:
    """Noise added to the output of one MLP, with as many seeds as it takes to need so much memory at once."""

    load: Callable[[], Model]
    """Called in the fresh process, so it must be one that can be sent there: a partial of a module's function."""
    n_prompts: int
    n_tokens: int
    needed_gib: float
    seed: int


def bench_memory(
    load: Callable[[], Model],
    *,
    budgets: Sequence[float] = BUDGETS,
    n_prompts: int = 64,
    n_tokens: int = 19,
    needed_gib: float = NEEDED_GIB,
    seed: int = 0,
) -> list[MemoryRow]:
    """The same sweep at each budget: what its process grew by, and whether the values are the same."""
    task = MemoryTask(load, n_prompts, n_tokens, needed_gib, seed)
    rows: list[MemoryRow] = []
    first: np.ndarray | None = None
    for budget in budgets:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
            plain, values = fresh.submit(_measured, task, budget).result()
        first = values if first is None else first
        rows.append(MemoryRow(**plain, max_difference=float(np.abs(values - first).max())))
    return rows


def _measured(task: MemoryTask, budget_gib: float) -> tuple[dict[str, Any], np.ndarray]:
    """In the fresh process: a row but for its difference, and the values in units of the logits' deviation."""
    model = task.load()
    prompts = random_pairs(model, task.n_prompts, task.n_tokens, 0, task.seed)
    base = model.run(prompts.clean)
    variants = _variants(base, task)
    whole = sweep(base, variants, "logit_diff", memory_gib=UNBOUNDED_GIB, plan_only=True)
    plan = sweep(base, variants, "logit_diff", memory_gib=budget_gib, plan_only=True)
    found: list[np.ndarray] = []
    forget_peak(model.device)
    before = held_bytes(model.device)
    seconds = seconds_of(
        lambda: found.append(sweep(base, variants, "logit_diff", memory_gib=budget_gib).values), model.device
    )
    row = {
        "model": model.name,
        "n_variants": len(variants),
        "n_prompts": task.n_prompts,
        "n_tokens": task.n_tokens,
        "budget_gib": budget_gib,
        "at_once_gib": whole.gib,
        "planned_gib": plan.gib,
        "n_chunks": plan.chunks,
        "growth_gib": (peak_bytes(model.device) - before) / GIB,
        "seconds": seconds,
    }
    return row, found[0] / float(base.logits.float().std())


def _variants(base: Run, task: MemoryTask) -> list[Edit]:
    layer = max(base.model.n_layers - BELOW_END, 0)

    def noised(n: int) -> list[Edit]:
        return [Edit(Site(layer, "mlp_out"), "add", Noise(base.model, 1.0, seed)) for seed in range(n)]

    one, two = (
        sweep(base, noised(n), "logit_diff", memory_gib=UNBOUNDED_GIB, plan_only=True).gib for n in (1, 2)
    )
    return noised(max(ceil((task.needed_gib - one) / (two - one)) + 1, 2))
