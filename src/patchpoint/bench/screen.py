"""Attribution and screen against the exact heatmap, over the facts of a file, in one process."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, Int

from patchpoint.engine import Batch, Model
from patchpoint.engine.cost import block_cost
from patchpoint.engine.sweep import base_values
from patchpoint.errors import FactError
from patchpoint.experiments.fact_run import answers, usable_prompts
from patchpoint.experiments.settings import FactSettings
from patchpoint.models.tokens import answer_ids
from patchpoint.tasks.facts import Fact, FactFile
from patchpoint.tasks.subject import SubjectPrompt
from patchpoint.tracing.agreement import TOP, Agreement, MeanAgreement, agreement, mean_agreement
from patchpoint.tracing.attribution import attributed
from patchpoint.tracing.corruption import Corruptor, corruptor_of
from patchpoint.tracing.exchange import Estimate, Exchange, measured
from patchpoint.tracing.screen import seen_in, site_costs

from .timing import check_positive, seconds_of

LIMIT, SAMPLES, SEED = 50, 10, 0
NOISE = "s3"
Made = TypeVar("Made")


@dataclass(frozen=True)
class Cost:
    """What a heatmap takes beside the clean and the corrupted run, which every method needs.

    `flops`: floating-point operations as in a sweep's plan, without logits; `with_logits`: with a whole row of
    logits per exchange. A backward pass takes two forward ones: what is pulled back is computed again, and weights
    get no gradients.
    """

    flops: float
    with_logits: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class FactBench:
    """One fact by every method. `largest_difference`: of exact from screened effects where these say exact."""

    number: int
    n_tokens: int
    exact: Cost
    costs: Mapping[str, Cost]
    agreements: Mapping[str, Agreement]
    largest_difference: float


@dataclass(frozen=True, kw_only=True)
class MethodBench:
    """One method over all facts; shares are of the exact heatmaps' totals, `largest_share` of one fact's."""

    agreement: MeanAgreement
    recalls: tuple[float, ...]
    """Of every fact, from the lowest."""
    share_of_flops: float
    largest_share: float
    share_with_logits: float
    share_of_seconds: float


@dataclass(frozen=True, kw_only=True)
class ScreenBench:
    """Methods against the exact heatmap of the residual stream, `top` sites of each fact, restored."""

    model: str
    samples: int
    top: int
    facts: tuple[FactBench, ...]
    methods: Mapping[str, MethodBench]

    @property
    def exact_seconds(self) -> float:
        """Of all exact heatmaps."""
        return sum(fact.exact.seconds for fact in self.facts)

    @property
    def largest_difference(self) -> float:
        """Of effects that screen calls exact."""
        return max(fact.largest_difference for fact in self.facts)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        derived = {name: getattr(self, name) for name in ("exact_seconds", "largest_difference")}
        return {**asdict(self), **derived}


def bench_screen(
    model: Model,
    facts: FactFile,
    *,
    limit: int = LIMIT,
    samples: int = SAMPLES,
    seed: int = SEED,
    memory_gib: float | None = None,
    on_fact: Callable[[FactBench], None] = lambda fact: None,
) -> ScreenBench:
    """Trace the first `limit` facts that the model answers exactly, by attribution and by screen, and compare.

    Noise is s3, its standard deviation measured over the subjects of the whole file. `on_fact` hears of each
    fact when it is done. Raises InvalidArgument for numbers below 1, FactError where the model answers none.
    """
    check_positive(limit=limit, samples=samples)
    corruptor = corruptor_of(NOISE).fitted(model, usable_prompts(model, facts, None))
    done = []
    answered = (fact for fact in facts.facts if answers(model, fact, FactSettings()))
    for fact in islice(answered, limit):
        done.append(_bench_fact(fact, exchange_of(model, fact, corruptor, samples, seed, memory_gib)))
        on_fact(done[-1])
    if not done:
        raise FactError(
            f"{model.name} predicts the attribute of none of the {len(facts.facts)} facts in "
            f"{str(facts.path)!r}; give facts that it knows"
        )
    return ScreenBench(
        model=model.name,
        samples=samples,
        top=TOP,
        facts=tuple(done),
        methods={name: _over(done, name) for name in METHODS},
    )


def exchange_of(
    model: Model, fact: Fact, corruptor: Corruptor, samples: int, seed: int, memory_gib: float | None
) -> Exchange:
    """The exchange that a trace of this fact makes: clean states of the residual stream restored."""
    prompt = SubjectPrompt.from_text(model, fact.prompt, subject=fact.subject)
    answer = answer_ids(model.tokenizer, fact.prompt, fact.attribute, prompt.bos).ids[0]
    clean = model.run(Batch((prompt.ids,), (answer,)), keep=(), memory_gib=memory_gib)
    drawn = corruptor.drawn(model, prompt, samples, seed)
    batch = clean.batch.repeat(len(drawn.values))
    corrupt = model.run(batch, edits=[drawn.edit], keep=(), memory_gib=memory_gib)
    return Exchange(corrupt, clean, min(drawn.positions), "resid", 1, "prob", memory_gib=memory_gib)


def _bench_fact(fact: Fact, asked: Exchange) -> FactBench:
    untouched = base_values(asked.base, asked.metric).numpy()
    towards = base_values(asked.source, asked.metric).numpy().mean() - untouched.mean()

    def effect(estimate: Estimate) -> Float[np.ndarray, "token layer"]:
        changes = estimate.samples.values - untouched
        return np.asarray(np.nanmean(changes, axis=-1)) * (-1 if towards < 0 else 1)

    estimate, exact_cost = _exactly(asked)
    exact, found = effect(estimate), {name: run(asked) for name, run in METHODS.items()}
    screened, _ = found["screen"]
    return FactBench(
        number=fact.number,
        n_tokens=asked.n_tokens,
        exact=exact_cost,
        costs={name: cost for name, (_, cost) in found.items()},
        agreements={
            name: agreement(effect(ours), exact, first=asked.first) for name, (ours, _) in found.items()
        },
        largest_difference=float(np.abs(effect(screened) - exact)[screened.exact.values].max()),
    )


def _timed(work: Callable[[], Made], asked: Exchange) -> tuple[Made, float]:
    made: list[Made] = []
    seconds = seconds_of(lambda: made.append(work()), asked.base.model.device)
    return made[0], seconds


def _exactly(asked: Exchange) -> tuple[Estimate, Cost]:
    estimate, seconds = _timed(lambda: measured(asked), asked)
    n_samples = estimate.samples.sizes["sample"]
    return estimate, _exchanges_cost(asked, np.full((1, 1), n_samples), seconds)


def _by_screen(asked: Exchange) -> tuple[Estimate, Cost]:
    seen, seconds = _timed(lambda: seen_in(asked), asked)
    return seen.estimate, _exchanges_cost(asked, seen.counts, seconds)


def _by_attribution(asked: Exchange) -> tuple[Estimate, Cost]:
    estimate, seconds = _timed(lambda: attributed(asked), asked)
    model, n_samples, n = asked.base.model, estimate.samples.sizes["sample"], asked.n_tokens
    blocks = [block_cost(model, layer) for layer in range(model.n_layers)]
    forward = sum(n * (one.q + one.kv + one.rest) + n * (n + 1) // 2 * one.pair for one in blocks)
    flops = 2.0 * n_samples * forward
    return estimate, Cost(flops, flops + 2 * n_samples * _row_of_logits(model), seconds)


def _exchanges_cost(asked: Exchange, counts: Int[np.ndarray, "#token #layer"], seconds: float) -> Cost:
    """Of so many samples at each site."""
    costs = site_costs(asked)
    logits = float((counts * (costs > 0)).sum()) * _row_of_logits(asked.base.model)
    with_logits = float((counts * costs).sum())
    return Cost(with_logits - logits, with_logits, seconds)


def _row_of_logits(model: Model) -> int:
    return 2 * model.d_model * model.d_vocab


METHODS: dict[str, Callable[[Exchange], tuple[Estimate, Cost]]] = {
    "attribution": _by_attribution,
    "screen": _by_screen,
}
"""What is compared with the exact heatmap."""


def _over(facts: Sequence[FactBench], name: str) -> MethodBench:
    """One method over all facts."""
    agreements = [fact.agreements[name] for fact in facts]

    def share(of: Callable[[Cost], float]) -> float:
        return sum(of(fact.costs[name]) for fact in facts) / sum(of(fact.exact) for fact in facts)

    return MethodBench(
        agreement=mean_agreement(agreements),
        recalls=tuple(sorted(one.recall for one in agreements)),
        share_of_flops=share(lambda cost: cost.flops),
        largest_share=max(fact.costs[name].flops / fact.exact.flops for fact in facts),
        share_with_logits=share(lambda cost: cost.with_logits),
        share_of_seconds=share(lambda cost: cost.seconds),
    )
