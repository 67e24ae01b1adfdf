"""What is read from the final token's logits, without unembedding more than it needs."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchpoint.errors import InvalidArgument, UnknownName
from patchpoint.models.families import Adapter

VOCAB_BLOCK = 8192
"""Vocabulary entries unembedded at once, so that their logits stay in a CPU's cache."""


@dataclass(frozen=True)
class Readout:
    """Rows behind the final norm, read through the unembedding."""

    adapter: Adapter
    final: Float[Tensor, "row d_final"]

    def logit(self, ids: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
        """One logit per row."""
        distinct, which = torch.unique(ids, return_inverse=True)
        return self.adapter.unembed(self.final, distinct).float().gather(1, which[:, None])[:, 0]

    def softmax_parts(self) -> tuple[Float[Tensor, " row"], Float[Tensor, " row"]]:
        """Largest logit, and the sum of exp(logit - largest), a block of the vocabulary at a time.

        Kept apart because the logarithm of the sum, of size 20 or so, would round away a probability's last
        two digits.
        """
        top = self.final.new_full((len(self.final),), float("-inf"), dtype=torch.float32)
        total = torch.zeros_like(top)
        for first in range(0, self.adapter.d_vocab, VOCAB_BLOCK):
            block = self.adapter.unembed(self.final, slice(first, first + VOCAB_BLOCK)).float()
            higher = torch.maximum(top, block.amax(dim=-1))
            total = total * (top - higher).exp() + block.sub_(higher[:, None]).exp_().sum(dim=-1)
            top = higher
        return top, total


@dataclass(frozen=True)
class Answers:
    """Answer tokens, one per row; `incorrect` may be unknown."""

    correct: Int[Tensor, " row"]
    incorrect: Int[Tensor, " row"] | None

    def at(self, rows: Int[Tensor, " chosen"]) -> "Answers":
        """Answers of chosen rows."""
        return Answers(self.correct[rows], None if self.incorrect is None else self.incorrect[rows])


Metric = Callable[[Readout, Answers], Float[Tensor, " row"]]


def logit(readout: Readout, answers: Answers) -> Float[Tensor, " row"]:
    """Logit of the correct answer."""
    return readout.logit(answers.correct)


def logprob(readout: Readout, answers: Answers) -> Float[Tensor, " row"]:
    """Natural logarithm of the correct answer's probability."""
    top, total = readout.softmax_parts()
    return readout.logit(answers.correct) - top - total.log()


def prob(readout: Readout, answers: Answers) -> Float[Tensor, " row"]:
    """Probability of the correct answer."""
    top, total = readout.softmax_parts()
    return (readout.logit(answers.correct) - top).exp() / total


def logit_diff(readout: Readout, answers: Answers) -> Float[Tensor, " row"]:
    """logit(correct) - logit(incorrect)."""
    if answers.incorrect is None:
        raise InvalidArgument("logit_diff needs an incorrect answer for each prompt; give incorrect=")
    return readout.logit(answers.correct) - readout.logit(answers.incorrect)


METRICS: dict[str, Metric] = {"prob": prob, "logit": logit, "logprob": logprob, "logit_diff": logit_diff}


def metric_named(name: str) -> Metric:
    """The metric of this name, or UnknownName."""
    if name not in METRICS:
        raise UnknownName("metric", name, METRICS)
    return METRICS[name]
