"""Figures of averages by token role: heatmaps over role and layer, and one line per role with its interval."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from patchpoint.errors import InvalidArgument

from .about import About
from .cells import (
    BAR_INCHES,
    EDGE_INCHES,
    colour_bar,
    draw_cells,
    layer_ticks,
    new_figure,
    panel_inches,
    panel_titles,
    plain_settings,
    settle,
)
from .labelled import role_label_inches, role_labels, table
from .lettering import caption_inches, caption_text, write_caption
from .measures import in_percent, look_of
from .roles import name_empty_rows
from .rows import LABEL_SIZE
from .styles import DIVERGING, HUES, colours, largest, layer_axis, symmetric

DIMS = ("role", "layer")
BarMaker = Callable[[ScalarMappable, Sequence[Axes], float, str], Colorbar]


@dataclass(frozen=True)
class Kind:
    """A statistic of the averages as a heatmap: its variable, texts, colours and the ends of their scale."""

    variable: str
    title: str
    words: str
    colours: Callable[[About], Colormap]
    limits: Callable[[Float[np.ndarray, "role layer"]], tuple[float, float]]


MEAN = Kind("mean", "Mean", "mean", lambda about: colours(DIVERGING), lambda values: symmetric([values]))
STD = Kind(
    "std",
    "Standard deviation",
    "standard deviation of",
    lambda about: colours(HUES[about.state]),
    lambda values: (0.0, largest(values) or 1.0),
)


def role_averages_figure(averages: Mapping[str, xr.Dataset], about: About) -> Figure:
    """Mean and standard deviation by role and layer, a pair of panels for each measure.

    `averages` holds a dataset of `tracing.averages.role_averages` by the measure's name. Means are centred on
    0, deviations in one hue from 0, each panel on its own scale; empty roles are grey and say why.

    Raises InvalidArgument without averages or for datasets without mean, std and count over (role, layer),
    UnknownName for a measure.
    """
    if not averages:
        raise InvalidArgument("a figure of averages got no measure; give the dataset of at least one")
    sizes = [panel_inches(*table(found, ("mean",), DIMS)["mean"].shape) for found in averages.values()]
    width, height = (max(inches) for inches in zip(*sizes, strict=True))
    total = 2 * width + max(map(role_label_inches, averages.values())) + 2 * BAR_INCHES
    caption = caption_text((*about.caption, "Averaged by token role"), 72 * (total - 0.2))
    with plain_settings():
        figure = new_figure(total, len(averages) * (height + EDGE_INCHES) + caption_inches(caption))
        grid = figure.subplots(len(averages), 2, squeeze=False)
        for pair, (measure, found) in zip(grid, averages.items(), strict=True):
            for axes, kind in zip(pair, (MEAN, STD), strict=True):
                draw_kind(axes, found, kind, measure, about, (width, height))
            pair[1].set_yticks([])
        write_caption(figure, caption)
        settle(figure)
    return figure


def draw_kind(
    axes: Axes,
    averages: xr.Dataset,
    kind: Kind,
    measure: str,
    about: About,
    size: tuple[float, float],
    bar_of: BarMaker = colour_bar,
) -> None:
    """Draw one statistic by role and layer with its colour bar, the cells `size` inches wide and high."""
    found, look = table(averages, (kind.variable, "count"), DIMS), look_of(measure)
    values = found[kind.variable]
    cells = draw_cells(axes, values, kind.colours(about), kind.limits(values))
    name_empty_rows(axes, values, found["count"].max(axis=1).astype(np.int64))
    layer_ticks(axes, averages["layer"].values.tolist())
    labels = role_labels(averages)
    axes.set_yticks(range(len(labels)), labels, size=LABEL_SIZE, parse_math=False)
    panel_titles(axes, size[0], title=kind.title, axis=layer_axis(about))
    words = f"{kind.words} {look.words.format(about.measured())}"
    bar = bar_of(cells, [axes], size[1], words)
    if look.ratio:
        in_percent(bar.long_axis)
