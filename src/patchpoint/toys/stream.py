"""A residual stream divided into named spaces, each read and written without touching the others."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Float
from torch import Tensor

from patchpoint.errors import InvalidArgument


@dataclass(frozen=True)
class Stream:
    """Spaces one after the other; what is left over is free, its last coordinate the balance.

    Everything written has minus its sum in the balance coordinate, which no space covers: then the mean that
    a LayerNorm subtracts is 0, as an RMSNorm has it anyway.
    """

    d_model: int
    sizes: Mapping[str, int]
    """Coordinates of each space."""

    def __post_init__(self) -> None:
        if sum(self.sizes.values()) >= self.d_model:
            raise InvalidArgument(
                f"spaces of {sum(self.sizes.values())} coordinates and the balance need a stream of at least "
                f"{sum(self.sizes.values()) + 1}, got {self.d_model}; give a wider one"
            )

    def space(self, name: str) -> slice:
        """The coordinates of a space."""
        ends = dict(zip(self.sizes, accumulate(self.sizes.values()), strict=True))
        return slice(ends[name] - self.sizes[name], ends[name])

    def read(
        self, name: str, width: int, scale: float = 1.0, first: int = 0
    ) -> Float[Tensor, "d_model width"]:
        """A space's coordinates, scaled, into `width` numbers from number `first` on, as many as there is room for."""
        weights = torch.zeros(self.d_model, width)
        n = min(self.sizes[name], width - first)
        start = self.space(name).start
        weights[start : start + n, first : first + n] = scale * torch.eye(n)
        return weights

    def write(self, name: str, width: int, scale: float = 1.0) -> Float[Tensor, "width d_model"]:
        """The first of `width` numbers, scaled, into a space's coordinates, as many as there are."""
        return self.balanced(self.read(name, width, scale).T)

    def balanced(self, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
        """Rows with mean 0, by their balance coordinate."""
        rows = rows.clone()
        rows[:, -1] = -rows[:, :-1].sum(1)
        return rows
