"""Probabilities of many facts' answers in clean and corrupted runs, as many facts at once as memory allows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from patchpoint.engine import Batch, Edit, Model, Site, Source
from patchpoint.engine.memory import budget_bytes, even_cuts
from patchpoint.engine.sweep import base_values
from patchpoint.errors import InvalidArgument
from patchpoint.tasks.subject import SubjectPrompt

from .draw import Corruption, Corruptor

SHARE_OF_BUDGET = 0.5
"""What the runs themselves may take; the rest is for noise, logits and the block at work."""


@dataclass(frozen=True, eq=False)
class Facts:
    """Prompts, the token id to score of each, and how their noise is drawn: from one seed for all.

    Raises InvalidArgument unless there is one answer of the vocabulary per prompt.
    """

    model: Model
    prompts: tuple[SubjectPrompt, ...]
    answers: tuple[int, ...]
    samples: int
    seed: int
    memory_gib: float | None

    def __post_init__(self) -> None:
        if not self.prompts or len(self.prompts) != len(self.answers):
            raise InvalidArgument(
                f"every prompt needs one answer per prompt, got {len(self.prompts)} prompts and "
                f"{len(self.answers)} answers; give at least one of each"
            )
        for answer in self.answers:
            if not 0 <= answer < self.model.d_vocab:
                raise InvalidArgument(
                    f"answer {answer} is no token id; give ids from 0 to {self.model.d_vocab - 1}"
                )
        if self.samples < 1:
            raise InvalidArgument(f"samples must be at least 1, got {self.samples}")

    def clean(self) -> Float[np.ndarray, " fact"]:
        """Probability of each answer."""
        return self._means(1, lambda some: ())

    def corrupted(self, corruptor: Corruptor) -> Float[np.ndarray, " fact"]:
        """Probability of each answer under noise that is added to the subjects, mean over samples."""
        fitted = corruptor.fitted(self.model, self.prompts)
        return self._means(self.samples, lambda some: (self._noise(fitted, some),))

    def std_of(self, corruptor: Corruptor) -> float:
        """Standard deviation of its noise over these facts."""
        fitted = corruptor.fitted(self.model, self.prompts)
        std = fitted.drawn(self.model, self.prompts[0], 1, self.seed).std
        assert std is not None
        return std

    def _noise(self, fitted: Corruptor, some: slice) -> Edit:
        drawn = [fitted.drawn(self.model, p, self.samples, self.seed) for p in self.prompts[some]]
        return Edit(Site(0, "embed"), "add", _OnSubjects(tuple(drawn)))

    def _means(self, times: int, edits: Callable[[slice], Sequence[Edit]]) -> Float[np.ndarray, " fact"]:
        parts = []
        for some in self._batches(times):
            ids = tuple(prompt.ids for prompt in self.prompts[some])
            batch = Batch(ids, self.answers[some]).repeat(times)
            run = self.model.run(batch, edits=edits(some), keep=(), memory_gib=self.memory_gib)
            parts.append(base_values(run, "prob").double().numpy().reshape(-1, times).mean(1))
        return np.concatenate(parts)

    def _batches(self, times: int) -> Iterator[slice]:
        """Facts that fit into memory together, each `times` times."""
        block = self.model.adapter.blocks[0]
        width = self.model.d_model + 2 * block.n_kv_heads * block.d_head
        row_bytes = width * (self.model.n_layers + 1) * self.model.dtype.itemsize
        most = int(SHARE_OF_BUDGET * budget_bytes(self.memory_gib, self.model.device)) // row_bytes
        start = 0
        for stop in even_cuts([len(prompt.ids) * times for prompt in self.prompts], max(1, most)):
            yield slice(start, stop)
            start = stop


@dataclass(frozen=True, eq=False)
class _OnSubjects(Source):
    """Each fact's own noise, and 0 on all other tokens; the batch has a prompt per fact and sample."""

    drawn: tuple[Corruption, ...]

    def check(self, site: Site, prompt: int, lengths: Sequence[int]) -> None:
        """It was drawn for these very prompts."""

    def rows(self, component: str, layer: int, prompts: Sequence[int], positions: Sequence[int]) -> Tensor:
        """One row per place."""
        samples, _, width = self.drawn[0].values.shape
        rows = torch.zeros(len(prompts), width)
        for row, (prompt, p) in enumerate(zip(prompts, positions, strict=True)):
            mine = self.drawn[prompt // samples]
            if p in mine.positions:
                rows[row] = mine.values[prompt % samples, mine.positions.index(p)]
        return rows
