"""Heatmaps of effects averaged by token role: mean and standard deviation, roles as rows, layers along x."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from patchpoint.errors import UnknownName

from .cells import (
    BAR_INCHES,
    EDGE_INCHES,
    LABEL_SIZE,
    colour_bar,
    draw_cells,
    layer_ticks,
    new_figure,
    panel_inches,
    panel_titles,
    plain_settings,
    settle,
)
from .labels import drawable
from .lettering import caption_inches, caption_text, extent, write_caption
from .picture import RolePicture
from .settings import Settings
from .styles import DIVERGING, HUES, colours, largest, layer_axis, rome_axis, rome_colours, symmetric


@dataclass(frozen=True)
class RoleStyle:
    """One way to colour mean effects; the standard deviation is always in one hue from 0."""

    cells: Callable[[RolePicture], Float[np.ndarray, "role layer"]]
    limits: Callable[[RolePicture], tuple[float, float]]
    colours: Callable[[Settings], Colormap]
    axis: Callable[[Settings], str]


def role_heatmap(picture: RolePicture, *, style: str = "patchpoint") -> Figure:
    """Mean and standard deviation of the effect by role and layer, two panels of one matplotlib figure.

    Style ``patchpoint``: means on a diverging map centred on 0. Style ``rome``: means in one hue by kind of
    state, cut off at 0. Roles without a token, or with a single one in the panel of standard deviations,
    are grey and say so.

    Raises UnknownName for an unknown style.
    """
    if style not in ROLE_STYLES:
        raise UnknownName("style", style, ROLE_STYLES)
    look = ROLE_STYLES[style]
    width, height = panel_inches(*picture.mean.shape)
    labels = [drawable(label) for label in picture.row_labels]
    margin = max(extent(label, LABEL_SIZE) for label in labels) / 72 + 0.15
    total = 2 * width + margin + 2 * BAR_INCHES
    caption = caption_text(picture.caption, 72 * (total - 0.2))
    with plain_settings():
        figure = new_figure(total, height + EDGE_INCHES + caption_inches(caption))
        means, deviations = figure.subplots(1, 2)
        mean = draw_cells(means, look.cells(picture), look.colours(picture), look.limits(picture))
        hue = colours(HUES[picture.state])
        std = draw_cells(deviations, picture.std, hue, (0.0, largest(picture.std) or 1.0))
        means.set_yticks(range(len(labels)), labels, size=LABEL_SIZE, parse_math=False)
        deviations.set_yticks([])
        for axes, cells, title, bar in (
            (means, mean, "Mean", picture.value_title),
            (
                deviations,
                std,
                "Standard deviation",
                f"standard deviation of effect on {picture.measured}",
            ),
        ):
            layer_ticks(axes, picture.layers)
            panel_titles(axes, width, title=title, axis=look.axis(picture))
            colour_bar(cells, [axes], height, bar)
        name_empty_rows(means, picture.mean, picture.count)
        name_empty_rows(deviations, picture.std, picture.count)
        write_caption(figure, caption)
    settle(figure)
    return figure


def name_empty_rows(
    axes: Axes, values: Float[np.ndarray, "role layer"], count: Int[np.ndarray, " role"]
) -> None:
    """Say in rows without any value whether the role has no token, one, or was not measured."""
    empty: Bool[np.ndarray, " role"] = np.isnan(values).all(axis=1)
    for row in np.flatnonzero(empty):
        words = {0: "no tokens", 1: "one token"}.get(int(count[row]), "not measured")
        middle = (values.shape[1] - 1) / 2
        axes.text(
            middle, float(row), words, ha="center", va="center", size=8, style="italic", color="#444444"
        )


def _cut_at_zero(picture: RolePicture) -> Float[np.ndarray, "role layer"]:
    cut = {"restore": np.maximum, "corrupt": np.minimum}[picture.direction]
    cells: Float[np.ndarray, "role layer"] = cut(picture.mean, 0.0)
    return cells


def _from_zero(picture: RolePicture) -> tuple[float, float]:
    end = largest(_cut_at_zero(picture)) or 1.0
    return {"restore": (0.0, end), "corrupt": (-end, 0.0)}[picture.direction]


ROLE_STYLES = {
    "patchpoint": RoleStyle(
        cells=lambda picture: picture.mean,
        limits=lambda picture: symmetric([picture.mean]),
        colours=lambda settings: colours(DIVERGING),
        axis=layer_axis,
    ),
    "rome": RoleStyle(cells=_cut_at_zero, limits=_from_zero, colours=rome_colours, axis=rome_axis),
}
