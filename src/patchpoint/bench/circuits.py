"""Node pruning compared with the greedy search by hooks and with the published procedure, in one process."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from patchpoint.circuits.circuit import Circuit
from patchpoint.circuits.node_pruning import METHOD, node_pruning
from patchpoint.engine import Model
from patchpoint.engine.graph.nodes import Node, senders
from patchpoint.engine.sweep import Progress
from patchpoint.errors import InvalidArgument, PromptError
from patchpoint.tasks.prompts import Prompts

from .pruning_loop import NOTHING, mean_difference, means_of, study_difference
from .timing import check_positive, seconds_of

EVERY = 37
"""The loops run every so many candidates: a prime, so that nodes of all kinds and layers come up."""


@dataclass(frozen=True, kw_only=True)
class Loop:
    """A search by hooks. `seconds`: median of the sampled candidates times their number, `spread` from the fastest
    and the slowest sample."""

    seconds: float
    spread: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class PruningBench:
    """Node pruning compared. `search_seconds` is of the whole search, loops are sampled and scaled up.

    `hooks`: the plain model whole for every candidate, its means taken once. `study`: the means too are made anew for
    every candidate, as the published code does. `max_difference`: of a candidate's performance in percent between
    the search and the loop of hooks.
    """

    model: str
    task: str
    n_prompts: int
    n_tokens: int
    n_candidates: int
    n_kept: int
    loop_samples: int
    search_seconds: float
    hooks: Loop
    study: Loop
    max_difference: float

    @property
    def ratio(self) -> float:
        """How many times faster the search is than the loop of hooks."""
        return self.hooks.seconds / self.search_seconds

    @property
    def study_ratio(self) -> float:
        """How many times faster it is than the published procedure."""
        return self.study.seconds / self.search_seconds

    def to_dict(self) -> dict[str, Any]:
        """Plain data of the comparison, for JSON."""
        return {**asdict(self), "ratio": self.ratio, "study_ratio": self.study_ratio}


@dataclass(frozen=True)
class Candidate:
    """One decision of a search: what the model has lost with the candidate, and the performance found."""

    removed: frozenset[Node]
    performance: float


def bench_node_pruning(
    model: Model,
    prompts: Prompts,
    *,
    threshold: float = 20.0,
    every: int = EVERY,
    memory_gib: float | None = None,
    progress: Progress | None = None,
) -> PruningBench:
    """`node_pruning` by means at each position, against both loops on every so many of its own candidates.

    Raises InvalidArgument for a sampling below 1, PromptError for prompts of several lengths, and what
    `node_pruning` raises.
    """
    check_positive(every=every)
    lengths = {len(ids) for ids in prompts.clean.tokens}
    if len(lengths) > 1:
        raise PromptError(
            f"the loops need prompts of one length, got {min(lengths)} to {max(lengths)} tokens; give those of one"
        )
    found: list[Circuit] = []

    def search() -> None:
        found.append(
            node_pruning(model, prompts, threshold=threshold, memory_gib=memory_gib, progress=progress)
        )

    seconds = seconds_of(search, model.device)
    circuit = found[0]
    candidates = list(candidates_of(model, circuit))
    sample = candidates[every // 2 :: every] or candidates[:1]
    means = means_of(model, prompts.corrupt, NOTHING, {})
    full = mean_difference(model, prompts, NOTHING, means)
    values: list[float] = []
    hooks = _timed(
        model,
        sample,
        len(candidates),
        lambda c: values.append(mean_difference(model, prompts, c.removed, means)),
    )
    study = _timed(model, sample, len(candidates), lambda c: study_difference(model, prompts, c.removed))
    return PruningBench(
        model=model.name,
        task=circuit.origin.task,
        n_prompts=len(prompts),
        n_tokens=lengths.pop(),
        n_candidates=len(candidates),
        n_kept=len(circuit.nodes),
        loop_samples=len(sample),
        search_seconds=seconds,
        hooks=hooks,
        study=study,
        max_difference=max(
            abs(100 * value / full - candidate.performance)
            for value, candidate in zip(values, sample, strict=True)
        ),
    )


def candidates_of(model: Model, circuit: Circuit) -> Iterator[Candidate]:
    """What a search tried, in order. InvalidArgument for a circuit that node pruning did not find."""
    if circuit.method != METHOD:
        raise InvalidArgument(
            f"this circuit was found by {circuit.method}, not by {METHOD}; give one of that"
        )
    by_name = {str(node): node for node in senders(model)}
    removed: frozenset[Node] = frozenset()
    for step in circuit.steps:
        tried = removed | {by_name[step.name]}
        yield Candidate(tried, step.value)
        removed = removed if step.kept else tried


def _timed(
    model: Model, sample: Sequence[Candidate], n_candidates: int, run: Callable[[Candidate], object]
) -> Loop:
    times = [seconds_of(lambda one=one: run(one), model.device) for one in sample]  # type: ignore[misc]
    return Loop(
        seconds=statistics.median(times) * n_candidates,
        spread=(min(times) * n_candidates, max(times) * n_candidates),
    )
