"""Prompts as the engine sees them: token ids of any lengths, packed row after row, and the answers to score."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from patchpoint.errors import InvalidArgument, PromptError


@dataclass(frozen=True)
class Batch:
    """Token ids per prompt, and per prompt the correct and the incorrect answer's first token where known."""

    tokens: tuple[tuple[int, ...], ...]
    correct: tuple[int, ...] | None = None
    incorrect: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not self.tokens:
            raise PromptError("no prompts given; give at least one")
        for number, ids in enumerate(self.tokens):
            if not ids:
                raise PromptError(f"prompt {number} is empty; give at least one token")
        for name, answers in (("correct", self.correct), ("incorrect", self.incorrect)):
            if answers is not None and len(answers) != len(self.tokens):
                raise InvalidArgument(
                    f"{len(answers)} {name} answers for {len(self.tokens)} prompts; give one each"
                )

    def repeat(self, times: int) -> "Batch":
        """Every prompt `times` times, copies side by side."""

        def each(values: Sequence[int]) -> tuple[int, ...]:
            return tuple(v for v in values for _ in range(times))

        return Batch(
            tuple(ids for ids in self.tokens for _ in range(times)),
            None if self.correct is None else each(self.correct),
            None if self.incorrect is None else each(self.incorrect),
        )


@dataclass(frozen=True)
class Packing:
    """Where each prompt's tokens lie among the packed rows; prompts of equal length lie side by side."""

    lengths: tuple[int, ...]
    order: tuple[int, ...] = field(init=False)
    """Prompts in the order of their rows."""
    offsets: tuple[int, ...] = field(init=False)
    """Row of each prompt's first token."""

    def __post_init__(self) -> None:
        order = sorted(range(len(self.lengths)), key=self.lengths.__getitem__)
        offsets = [0] * len(order)
        row = 0
        for prompt in order:
            offsets[prompt] = row
            row += self.lengths[prompt]
        object.__setattr__(self, "order", tuple(order))
        object.__setattr__(self, "offsets", tuple(offsets))

    @property
    def n_rows(self) -> int:
        """Number of packed rows."""
        return sum(self.lengths)

    def rows(self, prompt: int) -> slice:
        """Rows of one prompt."""
        return slice(self.offsets[prompt], self.offsets[prompt] + self.lengths[prompt])

    def final_rows(self) -> list[int]:
        """Row of each prompt's last token, in the order of the prompts."""
        return [offset + length - 1 for offset, length in zip(self.offsets, self.lengths, strict=True)]


def packed_ids(
    batch: Batch, packing: Packing, device: torch.device
) -> tuple[Int[Tensor, " row"], Int[Tensor, " row"]]:
    """Token ids and positions of all packed rows."""
    ids = [i for prompt in packing.order for i in batch.tokens[prompt]]
    positions = [p for prompt in packing.order for p in range(packing.lengths[prompt])]
    return torch.tensor(ids, device=device), torch.tensor(positions, device=device)
