"""What speaks for a circuit and what against it: faithful, complete, minimal, and better than chance?"""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float

from patchpoint.engine import Model
from patchpoint.engine.sweep import Progress
from patchpoint.errors import InvalidArgument
from patchpoint.tasks.prompts import Prompts

from .circuit import Circuit
from .completeness import Completeness, Removals, greedy_removal, random_subsets
from .evaluate import evaluate
from .evaluation import CONFIDENCE, RESAMPLES, Evaluation, Ratio, edge_values, ratio_of_means
from .exchange import Metric, progress_shares
from .kept import circuit_without, kept_values, metric_in
from .random_circuits import random_circuit

SIGNIFICANT = 0.05
"""A circuit with a larger p-value counts as no better than random ones."""
TIED = 1e-6
"""Of the whole effect: circuits that are no further apart are as good as each other."""


@dataclass(frozen=True, eq=False)
class Baseline:
    """A circuit among random ones of the same size, by the mean metric on the same prompts.

    `evaluation`: full model, circuit and empty circuit on these prompts; `random`: of each random circuit;
    `corrupt`: of the full model on the corrupted twins, with the clean prompts' answers.
    """

    evaluation: Evaluation
    random: Float[np.ndarray, " circuit"]
    corrupt: Float[np.ndarray, " prompt"]

    @property
    def n_as_good(self) -> int:
        """Random circuits at least as far from the empty circuit towards the full model, ties among them."""
        ends = self.evaluation
        effect = ends.full.mean() - ends.empty.mean()
        ahead = np.sign(effect) * (self.random - ends.circuit.mean())
        return int((ahead >= -TIED * abs(effect)).sum())

    @property
    def p_value(self) -> float:
        """(k + 1) / (n + 1) for k of n random circuits at least as good (Phipson and Smyth 2010)."""
        return (self.n_as_good + 1) / (len(self.random) + 1)

    @property
    def nothing_to_do(self) -> str | None:
        """Why no circuit can be better than a random one: the model itself does not do the task.

        It does where, whatever prompts are drawn from these, its metric is on one side of that of the empty circuit,
        and of its own on the corrupted twins.
        """
        full, empty = self.evaluation.full, self.evaluation.empty
        others = {"with every part ablated": empty, "on their corrupted twins": self.corrupt}
        for where, other in others.items():
            apart, sign = ratio_of_means(full, full - other), np.sign((full - other).mean())
            if apart.flag is not None or sign != np.sign((full - empty).mean()):
                return (
                    f"the model's metric on these prompts, {full.mean():.3g}, is no better than {where}, "
                    f"{other.mean():.3g}, or not reliably so: there is nothing for a circuit to do"
                )
        return None

    @property
    def better_than_random(self) -> bool:
        """Whether the model does the task and few random circuits are as good."""
        return self.nothing_to_do is None and self.p_value <= SIGNIFICANT

    def __str__(self) -> str:
        if self.nothing_to_do is not None:
            return f"no better than random: {self.nothing_to_do}"
        n = len(self.random)
        counts = (
            f"{self.n_as_good} of {n} random circuits of the same size are as good (p = {self.p_value:.2g})"
        )
        if self.better_than_random:
            return f"better than random: {counts}"
        few = n + 1 < 1 / SIGNIFICANT
        return f"no better than random: {counts}" + ("; too few were drawn to tell" if few else "")


@dataclass(frozen=True, eq=False)
class Proof:
    """Every check of a circuit.

    `evaluation`: on the prompts given, `held_out`: on prompts apart from them; `baseline`: on the latter where there
    are some. `random_removals`, `greedy_removals`: see `Completeness`, the greedy ones growing. `minimality`: dim
    node, how much the circuit's mean metric falls when that node is removed, coordinates low and high its interval;
    the sign turned where the full model's metric is below the empty circuit's, so that positive is needed.
    """

    circuit: Circuit
    evaluation: Evaluation
    held_out: Evaluation | None
    random_removals: Completeness
    greedy_removals: Completeness
    minimality: xr.DataArray
    baseline: Baseline

    @property
    def superfluous(self) -> tuple[str, ...]:
        """Nodes whose removal does not lower what the circuit does."""
        return tuple(str(name) for name in self.minimality["node"].values[self.minimality.values <= 0])

    @property
    def unclear(self) -> tuple[str, ...]:
        """Nodes whose removal lowers it by no more than chance among the prompts explains."""
        drops = self.minimality
        within = (drops.values > 0) & (drops["low"].values <= 0)
        return tuple(str(name) for name in drops["node"].values[within])

    def __str__(self) -> str:
        lines = [str(self.circuit), *_lines("prompts given", self.evaluation)]
        if self.held_out is not None:
            lines += _lines("hold-out prompts", self.held_out)
        else:
            lines.append(
                "hold-out prompts: none, so that all of this may be an accident of the prompts of the search"
            )
        full = self.evaluation.full.mean()
        for name, removals in (("random", self.random_removals), ("greedily chosen", self.greedy_removals)):
            if removals.removed:
                lines.append(
                    f"completeness: without {len(removals.removed)} {name} sets of its nodes circuit and model differ "
                    f"by {removals.gaps.mean():.3g} on average, {removals.gaps.max():.3g} at most "
                    f"(the full model: {full:.3g})"
                )
        lines.append(_minimality(self))
        where = "prompts given" if self.held_out is None else "hold-out prompts"
        return "\n".join([*lines, f"against chance, {where}: {self.baseline}"])


def _lines(where: str, evaluation: Evaluation) -> list[str]:
    ratios = {"performance": evaluation.performance, "faithfulness": evaluation.faithfulness}
    return [f"{name}, {where}: {_text(ratio)}" for name, ratio in ratios.items()]


def _text(ratio: Ratio) -> str:
    if ratio.flag is not None:
        return f"{ratio.value:.3f}, not to be relied on: {ratio.flag}"
    return f"{ratio.value:.3f} ({CONFIDENCE:.0%} interval {ratio.low:.3f} to {ratio.high:.3f})"


def _minimality(proof: Proof) -> str:
    n = proof.minimality.sizes["node"]
    found = [
        f"{len(names)} {what} ({', '.join(names[:10])}{', ...' if len(names) > 10 else ''})"
        for names, what in (
            (proof.superfluous, "can be removed without loss"),
            (proof.unclear, "with a loss that chance explains"),
        )
        if names
    ]
    return f"minimality: of {n} nodes " + ("; ".join(found) or "each is needed")


def prove(
    circuit: Circuit,
    model: Model,
    data: Prompts,
    *,
    held_out: Prompts | None = None,
    random_circuits: int = 20,
    subsets: int = 10,
    greedy_steps: int = 5,
    greedy_choices: int = 10,
    metric: Metric | None = None,
    seed: int = 0,
    memory_gib: float | None = None,
    progress: Progress | None = None,
) -> Proof:
    """Every check of a circuit on prompts of its task, best on others (`held_out`) than those of its search.

    Performance and faithfulness (see `evaluate`); completeness by `subsets` random sets of its nodes and one grown
    greedily in `greedy_steps` of `greedy_choices` (Wang et al. 2022, section 4); minimality node by node;
    `random_circuits` of the same size, on hold-out prompts where given. `metric`: by default that of the search, of
    which more, or for one such as kl less, is better: what the full model has more of than the empty circuit. All
    draws come from `seed`. `progress` counts the sets of parts that were run.
    Raises ResultsError for another model or task, InvalidArgument for counts that cannot be and for hold-out prompts
    that are among `data`, PromptError or UnknownName.
    """
    _check(random_circuits, subsets, greedy_steps, greedy_choices)
    if held_out is not None:
        _check_apart(data, held_out)
    draws = [np.random.default_rng([seed, part]) for part in range(3)]
    drawn = [random_circuit(circuit, model, draws[0]) for _ in range(random_circuits)]
    n_greedy = 2 * min(greedy_steps, len(circuit.nodes)) * greedy_choices
    shares = progress_shares([2, random_circuits, len(circuit.nodes), 2 * subsets, n_greedy], progress)
    here = evaluate(circuit, model, data, metric=metric, memory_gib=memory_gib)
    there = None
    if held_out is not None:
        there = evaluate(circuit, model, held_out, metric=metric, memory_gib=memory_gib)
    _done(shares[0])
    shown = data if held_out is None else held_out
    _, values = kept_values(circuit, model, shown, drawn, metric=metric, memory_gib=memory_gib)
    _done(shares[1])
    minimality = _drops(circuit, model, data, here, metric, memory_gib)
    _done(shares[2])
    removals = Removals(circuit, model, data, metric, memory_gib)
    by_chance = removals.of(random_subsets(circuit, subsets, draws[1]))
    _done(shares[3])
    greedy = greedy_removal(removals, greedy_steps, greedy_choices, draws[2], progress=shares[4])
    ends = here if there is None else there
    baseline = Baseline(ends, values.mean(1), _corrupt(circuit, model, shown, ends, metric, memory_gib))
    return Proof(circuit, here, there, by_chance, greedy, minimality, baseline)


def _corrupt(
    circuit: Circuit,
    model: Model,
    data: Prompts,
    evaluation: Evaluation,
    metric: Metric | None,
    memory_gib: float | None,
) -> Float[np.ndarray, " prompt"]:
    """The full model's metric on the corrupted twins: that of a circuit without any edge."""
    if circuit.edges is not None:
        return evaluation.empty
    _, values = edge_values(model, data, [()], metric=metric_in(circuit, metric), memory_gib=memory_gib)
    twins: Float[np.ndarray, " prompt"] = values[0]
    return twins


def _drops(
    circuit: Circuit,
    model: Model,
    data: Prompts,
    evaluation: Evaluation,
    metric: Metric | None,
    memory_gib: float | None,
) -> xr.DataArray:
    """How far the metric falls without each node, mean over prompts with its interval (bootstrap over prompts)."""
    drops = np.zeros((0, len(data)))
    if circuit.nodes:
        kept = [circuit_without(circuit, [name]) for name in circuit.nodes]
        _, values = kept_values(circuit, model, data, kept, metric=metric, memory_gib=memory_gib)
        towards = np.sign(evaluation.full.mean() - evaluation.empty.mean()) or 1.0
        drops = towards * (evaluation.circuit - values)
    weights = np.random.default_rng(evaluation.seed).multinomial(
        len(data), np.full(len(data), 1 / len(data)), size=RESAMPLES
    )
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    low, high = np.quantile(drops @ weights.T / len(data), tails, axis=1)
    return xr.DataArray(
        drops.mean(1),
        dims=("node",),
        coords={"node": list(circuit.nodes), "low": ("node", low), "high": ("node", high)},
        name="drop",
    )


def _done(share: Progress | None) -> None:
    if share is not None:
        share(1, 1)


def _check(random_circuits: int, subsets: int, greedy_steps: int, greedy_choices: int) -> None:
    counts = {
        "random_circuits": (random_circuits, 1),
        "subsets": (subsets, 0),
        "greedy_steps": (greedy_steps, 0),
        "greedy_choices": (greedy_choices, 1),
    }
    for name, (number, least) in counts.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise InvalidArgument(f"{name} must be a whole number of at least {least}, got {number!r}")


def _check_apart(data: Prompts, held_out: Prompts) -> None:
    common = set(data.clean.tokens) & set(held_out.clean.tokens)
    if common:
        raise InvalidArgument(
            f"{len(common)} of the hold-out prompts are among the other prompts; leave them out of one of the two"
        )
