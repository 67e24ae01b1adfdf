"""What a model can do at all: each task's accuracy before any circuit is looked for."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from math import nan, sqrt

import numpy as np
import torch

from patchpoint.engine import Batch, Model
from patchpoint.errors import InvalidArgument

from .alignment import Pair
from .candidates import Dropped, candidates
from .lexicon import Lexicon
from .screening import BLOCK, RATIO, check_ratio, score
from .task import Task

N_CHECKED = 48
"""Prompts per task where nobody says how many."""
Z95 = 1.959964
"""Two-sided 95% quantile of the normal distribution."""


@dataclass(frozen=True)
class Feasibility:
    """How well a model does a task, over prompts that were not screened.

    `accuracy`: share whose most likely next token is correct, with its 95% interval (Wilson 1927); `top5`: share
    with a correct one among the five most likely; `logit_diff`: mean of logit(correct) - logit(incorrect) with its
    95% interval; `prob`: mean probability of the correct next token; `sampled`: the share of draws at temperature 1
    that give the whole correct answer, exact (what the accuracy over many draws tends to); `acceptance`: share that
    the screening rule would keep. All NaN, with the `reason`, where there is nothing to measure.
    """

    task: str
    n: int
    accuracy: float = nan
    accuracy_low: float = nan
    accuracy_high: float = nan
    top5: float = nan
    logit_diff: float = nan
    logit_diff_low: float = nan
    logit_diff_high: float = nan
    prob: float = nan
    sampled: float = nan
    acceptance: float = nan
    reason: str | None = None

    def to_dict(self) -> dict[str, float | int | str | None]:
        """Its fields by name."""
        return asdict(self)


def check(
    task: Task,
    model: Model,
    n: int = N_CHECKED,
    seed: int = 0,
    *,
    ratio: float = RATIO,
    bos: bool | None = None,
) -> Feasibility:
    """Measure a task on a model over up to `n` of its prompts, the first ones of this seed, unscreened."""
    check_ratio(ratio)
    if n < 1:
        raise InvalidArgument(f"n must be at least 1, got {n}")
    lexicon, dropped = Lexicon(model.tokenizer), Dropped()
    stream = candidates(model, [task], [task.corruption(None)], [lexicon], seed, bos, [dropped])
    pairs = [row[0].pair for row in islice(stream, n)]
    if not pairs:
        reasons = [f"{reason} ({n})" for reason, n in dropped.counts.most_common(2)]
        return Feasibility(task.name, 0, reason="; ".join(reasons or map(str, lexicon.fillers)) or "no cases")
    scores = score(model, pairs)
    low, high = wilson(int((scores.rank == 0).sum()), len(pairs))
    mean = float(scores.logit_diff.mean())
    error = Z95 * float(scores.logit_diff.std(ddof=1)) / sqrt(len(pairs)) if len(pairs) > 1 else nan
    return Feasibility(
        task.name,
        len(pairs),
        float((scores.rank == 0).mean()),
        low,
        high,
        float((scores.rank < 5).mean()),
        mean,
        mean - error,
        mean + error,
        float(scores.prob.mean()),
        float(_whole_answers(model, pairs, scores.prob).mean()),
        float(scores.accepted(ratio).mean()),
    )


def wilson(k: int, n: int) -> tuple[float, float]:
    """95% interval of a share seen as `k` of `n`. Wilson 1927, J. Am. Stat. Assoc. 22, p. 209."""
    p, z2 = k / n, Z95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def _whole_answers(model: Model, pairs: Sequence[Pair], prob: np.ndarray) -> np.ndarray:
    """Probability of each whole correct answer: that of its first differing token times those of its other tokens.

    Where several answers are correct, of the first differing token alone.
    """
    found = prob.copy()
    wanted = [
        (number, (*pair.clean[: len(pair.clean) - pair.n_shared], *pair.answer[:place]), pair.answer[place])
        for number, pair in enumerate(pairs)
        for place in range(len(pair.answer))
        if place != pair.n_shared and (place < pair.n_shared or len(pair.correct_set) == 1)
    ]
    for start in range(0, len(wanted), BLOCK):
        block = wanted[start : start + BLOCK]
        with torch.no_grad():
            logits = model.run(Batch(tuple(ids for _, ids, _ in block)), keep=()).logits.float()
        probs = logits.softmax(-1)
        for row, (number, _, token) in enumerate(block):
            found[number] *= float(probs[row, token])
    return found
