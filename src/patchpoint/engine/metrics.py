"""What is read from the final token's logits, without unembedding more than it needs."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchpoint.errors import InvalidArgument, UnknownName
from patchpoint.models.families import Adapter

LOGITS_ROWS, LOGITS_BYTES = 512, 2**27
"""Most rows, and bytes, of whole logits held at once."""
VOCAB_BLOCK = 1024
"""Vocabulary entries unembedded in one product: its weights then stay in a CPU's cache."""


@dataclass(frozen=True)
class Readout:
    """Rows behind the final norm, read through the unembedding."""

    adapter: Adapter
    final: Float[Tensor, "row d_final"]

    def logit(self, ids: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
        """One logit per row."""
        distinct, which = torch.unique(ids, return_inverse=True)
        return self.adapter.unembed(self.final, distinct).float().gather(1, which[:, None])[:, 0]

    def of_whole_rows(
        self, normalise: Callable[..., Tensor], ids: Int[Tensor, " row"]
    ) -> Float[Tensor, " row"]:
        """One entry per row of torch's softmax or log_softmax of the float32 logits, a few rows at a time."""
        d_vocab = self.adapter.d_vocab
        most = min(LOGITS_ROWS, max(1, LOGITS_BYTES // (4 * d_vocab)))
        # Equal parts: a few rows left over would cost as much as many.
        most = -(-len(ids) // -(-len(ids) // most))
        # Two buffers for all rows: fresh pages for each would cost as much as the softmax itself.
        logits, normalised = self.final.new_empty((2, most, d_vocab), dtype=torch.float32)
        parts = []
        for first in range(0, len(ids), most):
            final, mine = self.final[first : first + most], ids[first : first + most]
            rows = slice(0, len(mine))
            for start in range(0, d_vocab, VOCAB_BLOCK):
                vocab = slice(start, min(start + VOCAB_BLOCK, d_vocab))
                self.adapter.unembed(final, vocab, out=logits[rows, vocab])
            normalise(logits[rows], -1, out=normalised[rows])
            parts.append(normalised[rows].gather(1, mine[:, None])[:, 0])
        return torch.cat(parts)


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
    return readout.of_whole_rows(torch.log_softmax, answers.correct)


def prob(readout: Readout, answers: Answers) -> Float[Tensor, " row"]:
    """Probability of the correct answer.

    By PyTorch's softmax of whole rows, as on the plain model: on a CPU its sum is off by up to 1e-5 of the
    probability, more than everything else here, so another summation would differ from users' own loops.
    """
    return readout.of_whole_rows(torch.softmax, answers.correct)


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
