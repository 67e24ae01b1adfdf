"""Which prompts a model answers: its scores, the rule that keeps a prompt, and what became of every candidate.

The rule is that of Lan et al. 2024, "Towards Interpretable Sequence Continuation" (arXiv 2311.04131): the most
likely next token is correct, and more than `ratio` times as likely as the incorrect answer.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from patchpoint.engine import Batch, Model
from patchpoint.errors import InvalidArgument

from .alignment import Pair
from .lexicon import Fillers

RATIO = 2.0
"""How many times likelier than the incorrect answer the correct one must be in the study."""
BLOCK = 64
"""Prompts that are run at once."""


@dataclass(frozen=True, eq=False)
class Scores:
    """What a model says about each candidate, one entry per prompt.

    `prob` and `prob_incorrect`: probability of the correct and incorrect next tokens (of all of them where several
    count); `logit_diff`: logit(correct) - logit(incorrect) of the first of each; `rank`: tokens that are likelier
    than the likeliest correct one, 0 where it is the prediction.
    """

    prob: Float[np.ndarray, " candidate"]
    prob_incorrect: Float[np.ndarray, " candidate"]
    logit_diff: Float[np.ndarray, " candidate"]
    rank: Int[np.ndarray, " candidate"]

    def __len__(self) -> int:
        return len(self.rank)

    def accepted(self, ratio: float) -> Bool[np.ndarray, " candidate"]:
        """Where the prediction is correct and more than `ratio` times as likely as the incorrect answer."""
        passed: np.ndarray = (self.rank == 0) & (self.prob > ratio * self.prob_incorrect)
        return passed

    @classmethod
    def joined(cls, parts: Sequence["Scores"]) -> "Scores":
        """Scores of several lots of candidates, one behind the other."""
        nothing = np.zeros(0)
        none = cls(nothing, nothing, nothing, np.zeros(0, dtype=np.int64))
        columns = ("prob", "prob_incorrect", "logit_diff", "rank")
        return cls(**{c: np.concatenate([getattr(part, c) for part in (none, *parts)]) for c in columns})


def check_ratio(ratio: float) -> None:
    """InvalidArgument for a ratio that is no positive number."""
    if not 0 < ratio < float("inf"):
        raise InvalidArgument(f"ratio must be a positive number, got {ratio}; the study used {RATIO:g}")


@torch.no_grad()
def score(model: Model, pairs: Sequence[Pair]) -> Scores:
    """The model's scores of the clean prompts."""
    parts = []
    for start in range(0, len(pairs), BLOCK):
        block = pairs[start : start + BLOCK]
        logits = model.run(Batch(tuple(pair.clean for pair in block)), keep=()).logits.float()
        probs = logits.softmax(-1)
        rows = torch.arange(len(block), device=logits.device)
        right, wrong = (
            torch.tensor(ids, device=logits.device)
            for ids in ([pair.correct for pair in block], [pair.incorrect for pair in block])
        )
        best = torch.stack(
            [mine[list(pair.correct_set)].max() for mine, pair in zip(logits, block, strict=True)]
        )
        parts.append(
            Scores(
                _sums(probs, [pair.correct_set for pair in block]),
                _sums(probs, [pair.incorrect_set for pair in block]),
                (logits[rows, right] - logits[rows, wrong]).double().cpu().numpy(),
                (logits > best[:, None]).sum(-1).cpu().numpy(),
            )
        )
    return Scores.joined(parts)


def _sums(probs: torch.Tensor, chosen: Sequence[tuple[int, ...]]) -> np.ndarray:
    return np.array([float(mine[list(ids)].sum()) for mine, ids in zip(probs, chosen, strict=True)])


@dataclass(frozen=True, eq=False)
class Report:
    """What became of a task's candidates.

    `fillers`: words that fitted the tokenizer; `dropped`: reason -> candidates that were left out before the model
    saw them, with one message for each in `examples`; `texts`, `groups`, `scores`, `accepted`: one entry per
    candidate that the model saw. Without screening every candidate is accepted.
    """

    task: str
    model: str
    corruption: str
    seed: int
    ratio: float | None
    fillers: tuple[Fillers, ...]
    dropped: Mapping[str, int]
    examples: Mapping[str, str]
    texts: tuple[str, ...]
    groups: tuple[str, ...]
    scores: Scores
    accepted: Bool[np.ndarray, " candidate"]

    @property
    def n_candidates(self) -> int:
        """How many the model saw."""
        return len(self.scores)

    @property
    def acceptance(self) -> float:
        """Share of the candidates that were accepted; NaN for none."""
        return _mean(self.accepted)

    @property
    def accuracy(self) -> float:
        """Share of the candidates whose most likely next token is correct; NaN for none."""
        return _mean(self.scores.rank == 0)

    @property
    def mean_logit_diff(self) -> float:
        """Mean of logit(correct) - logit(incorrect) over all candidates; NaN for none."""
        return _mean(self.scores.logit_diff)

    def by_group(self) -> dict[str, tuple[int, int]]:
        """Group -> accepted, seen."""
        seen = Counter(self.groups)
        kept = Counter(group for group, passed in zip(self.groups, self.accepted, strict=True) if passed)
        return {group: (kept[group], n) for group, n in seen.items()}

    def lines(self) -> list[str]:
        """All of it for people, a line each."""
        found = [
            f"{int(self.accepted.sum())} of {self.n_candidates} candidates accepted ({self.acceptance:.1%}); "
            f"accuracy {self.accuracy:.1%}, mean logit difference {self.mean_logit_diff:.2f}"
        ]
        found += [
            f"dropped {n}: {reason}; such as: {self.examples[reason]}" for reason, n in self.dropped.items()
        ]
        return found + [str(fillers) for fillers in self.fillers]


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
