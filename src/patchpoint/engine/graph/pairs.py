"""Pairs of a clean and a corrupted prompt in groups of one shape: of each only the tokens from the first that differs.

Earlier tokens are the same in both runs, hence in every run between them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchpoint.engine.run import Run
from patchpoint.errors import InvalidArgument, PromptError
from patchpoint.models.families import Rotary

Prefix = tuple[Tensor | None, Tensor | None]
"""Keys and values of the tokens before the first that differs, [prompt, token, kv_head, d_head]."""
BEFORE_THE_GRAPH = ("embed", "resid_pre")


@dataclass(frozen=True, eq=False)
class Pairs:
    """Prompts of `n_tokens` tokens whose two runs differ from token `first` on; rows are their tokens from there."""

    clean: Run
    corrupt: Run
    prompts: tuple[int, ...]
    n_tokens: int
    first: int

    @property
    def width(self) -> int:
        """Rows of each prompt."""
        return self.n_tokens - self.first

    @property
    def dtype(self) -> torch.dtype:
        """The model's."""
        return self.clean.resid[0].dtype

    @property
    def finals(self) -> slice:
        """Each prompt's last row."""
        return slice(self.width - 1, None, self.width)

    @cached_property
    def rows(self) -> Int[Tensor, " row"]:
        """The runs' row of each row."""
        return self._tokens(self.first, self.n_tokens).flatten()

    @cached_property
    def angles(self) -> Rotary | None:
        """Rotary angles of the rows, where the model has any."""
        return None if self.clean.rotary is None else self.clean.rotary.at(self.rows)

    def stream(self, run: Run, layer: int) -> Float[Tensor, "row d_model"]:
        """What block `layer` reads in one of the two runs."""
        return run.resid[layer][self.rows]

    def prefix(self, layer: int) -> Prefix:
        """Keys and values of unchanged tokens in one block."""
        if not self.first:
            return None, None
        rows = self._tokens(0, self.first)
        return self.clean.kept["k"][layer][rows], self.clean.kept["v"][layer][rows]

    def _tokens(self, first: int, stop: int) -> Int[Tensor, "prompt token"]:
        starts = torch.tensor([self.clean.packing.offsets[prompt] for prompt in self.prompts])
        return (starts[:, None] + torch.arange(first, stop)).to(self.clean.resid[0].device)


def check_pair(clean: Run, corrupt: Run) -> None:
    """Runs of one model over prompts of equal lengths, edited nowhere behind block 0's input.

    Raises InvalidArgument or PromptError.
    """
    if clean.model is not corrupt.model:
        raise InvalidArgument(
            f"the clean run is of {clean.model.name}, the corrupted one of another load of {corrupt.model.name}; "
            "run both on one loaded model"
        )
    lengths = clean.packing.lengths, corrupt.packing.lengths
    if len(lengths[0]) != len(lengths[1]):
        raise PromptError(
            f"{len(lengths[0])} clean prompts and {len(lengths[1])} corrupted ones; give one for each"
        )
    for prompt, (n_clean, n_corrupt) in enumerate(zip(*lengths, strict=True)):
        if n_clean != n_corrupt:
            raise PromptError(
                f"prompt {prompt} has {n_clean} tokens clean and {n_corrupt} corrupted; give both equal lengths"
            )
    for edit in (*clean.edits, *corrupt.edits):
        if edit.site.component not in BEFORE_THE_GRAPH or edit.site.layer % clean.model.n_layers:
            raise InvalidArgument(
                f"a graph run's clean and corrupted runs may be edited at embed and at layer 0 resid_pre only; "
                f"got an edit of {edit.site}"
            )


def pairs_of(clean: Run, corrupt: Run, most_rows: int) -> Iterator[Pairs]:
    """All prompts whose two runs differ, in groups of at most `most_rows` rows (or of one prompt)."""
    differs = (clean.resid[0] != corrupt.resid[0]).any(-1).cpu()
    shapes: dict[tuple[int, int], list[int]] = {}
    for prompt, n_tokens in enumerate(clean.packing.lengths):
        at = differs[clean.packing.rows(prompt)].nonzero()
        if len(at):
            shapes.setdefault((n_tokens, int(at[0])), []).append(prompt)
    for (n_tokens, first), prompts in shapes.items():
        most = max(1, most_rows // (n_tokens - first))
        for start in range(0, len(prompts), most):
            yield Pairs(clean, corrupt, tuple(prompts[start : start + most]), n_tokens, first)
