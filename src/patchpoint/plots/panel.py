"""One heatmap among the several of a figure: tokens as rows from the top, layers along x."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap

from patchpoint.errors import InvalidArgument
from patchpoint.tracing.grid import Grid

from .cells import dot_cells, draw_cells, layer_ticks
from .rows import label_font, token_ticks

PAGE_WIDTH = 2.4, 0.11, 4.6
PAGE_HEIGHT = 0.9, 0.19, 7.0


@dataclass(frozen=True)
class Sizes:
    """Width and height of a panel's cells in inches, and the font size of its row labels in points."""

    width: float
    height: float
    font: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Panel:
    """Values of one prompt's sites, shape (token, layer), NaN where not measured; dots where not `exact`.

    Raises InvalidArgument for a shape that is not that of the tokens, no cell at all, or infinite values.
    """

    values: Float[np.ndarray, "token layer"]
    tokens: tuple[str, ...]
    span: tuple[int, int]
    exact: Bool[np.ndarray, "token layer"]

    def __post_init__(self) -> None:
        shape = np.shape(self.values)
        if len(shape) != 2 or not all(shape) or shape != self.exact.shape or shape[0] != len(self.tokens):
            raise InvalidArgument(
                f"a heatmap got values of shape {shape} for {len(self.tokens)} tokens; "
                f"expected (token, layer) = {self.exact.shape}, at least one of each"
            )
        if np.isinf(self.values).any():
            raise InvalidArgument(
                "a heatmap got infinite values, expected finite ones; give NaN where none was measured"
            )

    @classmethod
    def of(cls, grid: Grid, values: Float[np.ndarray, "token layer"]) -> Self:
        """Values at the sites of `grid`, float64 from here on."""
        return cls(
            values=np.asarray(values, dtype=np.float64),
            tokens=grid.tokens,
            span=grid.subject_span,
            exact=grid.exact,
        )

    @property
    def rows(self) -> tuple[tuple[str, ...], tuple[int, int]]:
        """What decides whether two panels can share their row labels."""
        return self.tokens, self.span

    def draw(
        self, axes: Axes, colours: Colormap, limits: tuple[float, float], sizes: Sizes
    ) -> ScalarMappable:
        """Draw cells, dots and ticks."""
        mappable = draw_cells(axes, self.values, colours, limits)
        dot_cells(axes, ~self.exact & ~np.isnan(self.values))
        layer_ticks(axes, range(self.values.shape[1]))
        token_ticks(axes, self.tokens, self.span, font=sizes.font, height=sizes.height)
        return mappable


def page_sizes(rows: int, layers: int) -> Sizes:
    """Sizes of a panel that shares a page with others."""
    height = _within(rows, *PAGE_HEIGHT)
    return Sizes(_within(layers, *PAGE_WIDTH), height, label_font(height, rows))


def _within(number: int, least: float, each: float, most: float) -> float:
    return min(max(each * number, least), most)
