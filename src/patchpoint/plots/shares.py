"""Heatmap of the share of facts whose effect has the unexpected sign, by token role and layer."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from patchpoint.errors import InvalidArgument

from .about import About
from .averages import DIMS
from .cells import (
    BAR_INCHES,
    EDGE_INCHES,
    colour_bar,
    dot_cells,
    draw_cells,
    layer_ticks,
    new_figure,
    panel_inches,
    panel_titles,
    plain_settings,
    settle,
)
from .labelled import interval_words, role_label_inches, role_labels, table
from .lettering import caption_inches, caption_text, write_caption
from .measures import in_percent
from .roles import name_empty_rows
from .rows import LABEL_SIZE
from .styles import HUES, colours, layer_axis

HALF = 0.5
WRONG = {"restore": "lower", "corrupt": "raise"}
"""By direction, what an effect of the unexpected sign does to the metric."""


def share_heatmap(shares: xr.Dataset, about: About) -> Figure:
    """Share of wrong sign by role and layer, in one hue from 0 to 1, with one half marked on the colour bar.

    `shares` has dims (role, layer) and variables `share`, its interval `low`, `high`, and `count`, the number
    of effects. Cells whose whole interval lies above one half are dotted. Roles without an effect are grey.

    Raises InvalidArgument for a dataset without these or a share outside 0 to 1.
    """
    found = table(shares, ("share", "low", "high", "count"), DIMS)
    share = found["share"]
    if ((share < 0) | (share > 1)).any():
        ends = f"{np.nanmin(share):.4g} to {np.nanmax(share):.4g}"
        raise InvalidArgument(f"shares run from {ends}, expected 0 to 1; give ratios, not percentages")
    width, height = panel_inches(*share.shape)
    total = width + role_label_inches(shares) + BAR_INCHES
    dots = f"Dots: the whole {interval_words(shares)} lies above one half"
    what = f"Share of effects that {WRONG[about.direction]} {about.measured()}. {dots}"
    caption = caption_text((*about.caption, what), 72 * (total - 0.2))
    with plain_settings():
        figure = new_figure(total, height + EDGE_INCHES + caption_inches(caption))
        axes, labels = figure.subplots(), role_labels(shares)
        cells = draw_cells(axes, share, colours(HUES[about.state]), (0.0, 1.0))
        dot_cells(axes, (found["low"] > HALF) & ~np.isnan(share))
        name_empty_rows(axes, share, found["count"].max(axis=1).astype(np.int64))
        layer_ticks(axes, shares["layer"].values.tolist())
        axes.set_yticks(range(len(labels)), labels, size=LABEL_SIZE, parse_math=False)
        panel_titles(axes, width, title="Effects of the unexpected sign", axis=layer_axis(about))
        bar = colour_bar(cells, [axes], height, "share of effects")
        bar.set_ticks([0, 0.25, HALF, 0.75, 1])
        in_percent(bar.long_axis)
        bar.ax.axhline(HALF, color="black", linewidth=1.2)
        write_caption(figure, caption)
        settle(figure)
    return figure
