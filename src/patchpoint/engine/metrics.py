"""What is read from the final token's logits, without unembedding more than it needs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchpoint.errors import InvalidArgument, UnknownName
from patchpoint.models.families import Adapter

from .batch import Batch

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

    def whole_rows(self) -> Iterator[tuple[slice, Float[Tensor, "some vocab"]]]:
        """Float32 logits, a few rows at a time, in a buffer that the next rows take over."""
        n_rows, d_vocab = len(self.final), self.adapter.d_vocab
        most = min(LOGITS_ROWS, max(1, LOGITS_BYTES // (4 * d_vocab)))
        # Equal parts: a few rows left over would cost as much as many.
        most = max(1, -(-n_rows // max(1, -(-n_rows // most))))
        # One buffer for all rows: fresh pages for each would cost as much as the softmax itself.
        logits = self.final.new_empty((most, d_vocab), dtype=torch.float32)
        for first in range(0, n_rows, most):
            final = self.final[first : first + most]
            mine = logits[: len(final)]
            for start in range(0, d_vocab, VOCAB_BLOCK):
                vocab = slice(start, min(start + VOCAB_BLOCK, d_vocab))
                self.adapter.unembed(final, vocab, out=mine[:, vocab])
            yield slice(first, first + len(final)), mine

    def of_whole_rows(
        self, normalise: Callable[..., Tensor], ids: Int[Tensor, " row"]
    ) -> Float[Tensor, " row"]:
        """One entry per row of torch's softmax or log_softmax of the float32 logits."""
        parts = []
        normalised: Tensor | None = None
        for rows, logits in self.whole_rows():
            normalised = torch.empty_like(logits) if normalised is None else normalised[: len(logits)]
            normalise(logits, -1, out=normalised)
            parts.append(normalised.gather(1, ids[rows, None])[:, 0])
        return torch.cat(parts)


@dataclass(frozen=True, eq=False)
class Asked:
    """What rows are scored against: answer tokens per prompt where known, and the base run itself."""

    base: Readout
    """The base run, one row per prompt."""
    correct: Int[Tensor, " prompt"] | None
    incorrect: Int[Tensor, " prompt"] | None

    @classmethod
    def of(cls, batch: Batch, base: Readout) -> "Asked":
        """A batch's answers, and its base run behind the final norm."""
        device = base.final.device
        correct, incorrect = (
            None if ids is None else torch.tensor(ids, device=device)
            for ids in (batch.correct, batch.incorrect)
        )
        return cls(base, correct, incorrect)

    @cached_property
    def base_logprobs(self) -> Float[Tensor, "prompt vocab"]:
        """Natural logarithms of the base run's probabilities."""
        return torch.cat([logits.log_softmax(-1) for _, logits in self.base.whole_rows()])


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows to score, each with the number of its prompt."""

    readout: Readout
    prompts: Int[Tensor, " row"]
    asked: Asked

    @property
    def correct(self) -> Int[Tensor, " row"]:
        """The correct answer's token per row; InvalidArgument where none was given."""
        if self.asked.correct is None:
            raise InvalidArgument(
                "the base run's prompts have no answers to score; give them a correct answer each"
            )
        return self.asked.correct[self.prompts]

    @property
    def incorrect(self) -> Int[Tensor, " row"]:
        """The incorrect answer's token per row; InvalidArgument where none was given."""
        if self.asked.incorrect is None:
            raise InvalidArgument("logit_diff needs an incorrect answer for each prompt; give incorrect=")
        return self.asked.incorrect[self.prompts]


Metric = Callable[[Rows], Float[Tensor, " row"]]
LogitsMetric = Callable[[Float[Tensor, "row vocab"], Int[Tensor, " row"]], Float[Tensor, " row"]]
"""A metric of one's own: from the final tokens' float32 logits and the number of each row's prompt."""


def logit(rows: Rows) -> Float[Tensor, " row"]:
    """Logit of the correct answer."""
    return rows.readout.logit(rows.correct)


def logprob(rows: Rows) -> Float[Tensor, " row"]:
    """Natural logarithm of the correct answer's probability."""
    return rows.readout.of_whole_rows(torch.log_softmax, rows.correct)


def prob(rows: Rows) -> Float[Tensor, " row"]:
    """Probability of the correct answer.

    By PyTorch's softmax of whole rows, as on the plain model: on a CPU its sum is off by up to 1e-5 of the
    probability, more than everything else here, so another summation would differ from users' own loops.
    """
    return rows.readout.of_whole_rows(torch.softmax, rows.correct)


def logit_diff(rows: Rows) -> Float[Tensor, " row"]:
    """logit(correct) - logit(incorrect)."""
    incorrect = rows.incorrect
    return rows.readout.logit(rows.correct) - rows.readout.logit(incorrect)


def kl(rows: Rows) -> Float[Tensor, " row"]:
    """Kullback-Leibler divergence KL(base || variant) of the next-token distributions, in nats."""

    def divergence(logits: Tensor, prompts: Tensor) -> Tensor:
        base = rows.asked.base_logprobs[prompts]
        return (base.exp() * (base - logits.log_softmax(-1))).sum(-1)

    return of_logits(divergence)(rows)


def rank(rows: Rows) -> Float[Tensor, " row"]:
    """How many tokens have a larger logit than the correct answer; 0 when it is the prediction."""
    correct = rows.correct
    parts = [
        (logits > logits.gather(1, correct[at, None])).sum(-1).float()
        for at, logits in rows.readout.whole_rows()
    ]
    return torch.cat(parts)


def top1(rows: Rows) -> Float[Tensor, " row"]:
    """1 where no token has a larger logit than the correct answer, else 0; its mean is the accuracy."""
    return (rank(rows) == 0).float()


def of_logits(metric: LogitsMetric) -> Metric:
    """A metric of one's own, fed with whole rows of logits, a few at a time."""

    def read(rows: Rows) -> Float[Tensor, " row"]:
        return torch.cat(
            [_one_each(metric(logits, rows.prompts[at]), logits) for at, logits in rows.readout.whole_rows()]
        )

    return read


def _one_each(values: object, logits: Tensor) -> Tensor:
    if isinstance(values, Tensor) and values.shape == (len(logits),):
        # A copy: it may be a view of the buffer that the next rows take over.
        return values.to(torch.float32, copy=True)
    got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
    raise InvalidArgument(
        f"a metric returns one number per row of logits, here a tensor of shape ({len(logits)},); got {got}"
    )


METRICS: dict[str, Metric] = {
    "prob": prob,
    "logit": logit,
    "logprob": logprob,
    "logit_diff": logit_diff,
    "kl": kl,
    "rank": rank,
    "top1": top1,
}


def metric_of(metric: str | LogitsMetric) -> Metric:
    """The metric of this name, or one of the caller's own; UnknownName."""
    if callable(metric):
        return of_logits(metric)
    if metric not in METRICS:
        raise UnknownName("metric", metric, METRICS)
    return METRICS[metric]
