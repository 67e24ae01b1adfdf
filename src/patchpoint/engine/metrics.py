"""What is read from the final token's logits, without unembedding more than it needs."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchpoint.errors import InvalidArgument, UnknownName
from patchpoint.models.families import Adapter

LOGITS_BYTES = 2**26
"""Most bytes of whole rows of logits held at once."""


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
        self, read: Callable[[Tensor, Tensor], Tensor], ids: Int[Tensor, " row"]
    ) -> Float[Tensor, " row"]:
        """`read(logits, ids)` of float32 logits [row, vocab], a few rows at a time."""
        most = max(1, LOGITS_BYTES // (4 * self.adapter.d_vocab))
        parts = [
            read(self.adapter.unembed(self.final[rows], slice(None)).float(), ids[rows])
            for rows in (slice(first, first + most) for first in range(0, len(ids), most))
        ]
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
    return readout.of_whole_rows(lambda logits, ids: _entry(logits.log_softmax(-1), ids), answers.correct)


def prob(readout: Readout, answers: Answers) -> Float[Tensor, " row"]:
    """Probability of the correct answer.

    By PyTorch's softmax of whole rows, as on the plain model: on a CPU its sum is off by up to 1e-5 of the
    probability, more than everything else here, so another summation would differ from users' own loops.
    """
    return readout.of_whole_rows(lambda logits, ids: _entry(logits.softmax(-1), ids), answers.correct)


def _entry(rows: Float[Tensor, "row vocab"], ids: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
    return rows.gather(1, ids[:, None])[:, 0]


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
