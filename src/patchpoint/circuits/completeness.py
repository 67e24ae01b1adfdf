"""Is everything that does the task in the circuit? Wang et al. 2022 (https://arxiv.org/abs/2211.00593), section 4.

Were the circuit C complete, removing any of its nodes K from it and from the whole model M would hurt both alike:
|F(C without K) - F(M without K)|, F the mean of the metric, would be small for every K.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from patchpoint.engine import Model
from patchpoint.engine.sweep import Progress
from patchpoint.errors import InvalidArgument
from patchpoint.tasks.prompts import Prompts

from .circuit import Circuit
from .exchange import Metric
from .kept import circuit_without, kept_values, model_without


@dataclass(frozen=True, eq=False)
class Completeness:
    """Sets of the circuit's nodes, and the mean metric of circuit and model without each."""

    removed: tuple[tuple[str, ...], ...]
    circuit: Float[np.ndarray, " set"]
    model: Float[np.ndarray, " set"]

    @property
    def gaps(self) -> Float[np.ndarray, " set"]:
        """|F(C without K) - F(M without K)|, in units of the metric; 0 where the circuit is complete."""
        gaps: Float[np.ndarray, " set"] = np.abs(self.circuit - self.model)
        return gaps


@dataclass(frozen=True, eq=False)
class Removals:
    """A circuit in its model, to remove nodes from both."""

    circuit: Circuit
    model: Model
    data: Prompts
    metric: Metric | None = None
    memory_gib: float | None = None

    def of(self, removed: Sequence[Collection[str]]) -> Completeness:
        """Both without each set of nodes."""
        kept = [
            *(circuit_without(self.circuit, nodes) for nodes in removed),
            *(model_without(self.circuit, self.model, nodes) for nodes in removed),
        ]
        means = np.zeros(0)
        if kept:
            _, values = kept_values(
                self.circuit, self.model, self.data, kept, metric=self.metric, memory_gib=self.memory_gib
            )
            means = values.mean(1)
        return Completeness(tuple(map(tuple, removed)), means[: len(removed)], means[len(removed) :])


def random_subsets(circuit: Circuit, n: int, draw: np.random.Generator) -> list[tuple[str, ...]]:
    """n subsets of a circuit's nodes, each node in half of them, none empty unless the circuit is."""
    if n < 0:
        raise InvalidArgument(f"the number of subsets must be 0 or more, got {n}")
    found: list[tuple[str, ...]] = []
    while len(found) < n:
        within = draw.random(len(circuit.nodes)) < 0.5
        if within.any() or not circuit.nodes:
            found.append(tuple(name for name, chosen in zip(circuit.nodes, within, strict=True) if chosen))
    return found


def greedy_removal(
    removals: Removals,
    steps: int,
    choices: int,
    draw: np.random.Generator,
    *,
    progress: Progress | None = None,
) -> Completeness:
    """The set K that a greedy search for the largest gap ends with, and every set on its way, smallest first.

    Each step adds, of `choices` random nodes of the circuit that are not in K, the one with the largest gap: the
    greedy sampling of Wang et al. 2022, appendix. InvalidArgument for choices below 1.
    """
    if choices < 1:
        raise InvalidArgument(f"a step needs at least 1 node to choose from, got {choices}")
    chosen: tuple[str, ...] = ()
    removed, circuit, model = [], [], []
    n_steps = min(steps, len(removals.circuit.nodes))
    for number in range(n_steps):
        rest = [name for name in removals.circuit.nodes if name not in chosen]
        tried = draw.choice(len(rest), min(choices, len(rest)), replace=False)
        step = removals.of([(*chosen, rest[i]) for i in sorted(tried)])
        best = int(step.gaps.argmax())
        chosen = step.removed[best]
        removed.append(chosen)
        circuit.append(step.circuit[best])
        model.append(step.model[best])
        if progress is not None:
            progress(number + 1, n_steps)
    return Completeness(tuple(removed), np.array(circuit), np.array(model))
