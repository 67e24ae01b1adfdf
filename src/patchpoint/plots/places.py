"""Heatmap of mean effects at the tokens of sentences that all prompts begin with, then by role in the prompt."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from .about import About
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
from .labelled import interval_words, table
from .labels import drawable, prose, visible
from .lettering import caption_inches, caption_text, extent, write_caption
from .roles import name_empty_rows
from .rows import LABEL_SIZE
from .styles import DIVERGING, colours, layer_axis, symmetric


def place_heatmap(places: xr.Dataset, about: About) -> Figure:
    """Mean effect by place and layer on a diverging map centred on 0, places as rows from the top.

    `places` has dims (place, layer), variables `mean`, its interval `low`, `high`, and `count`, the number of
    facts, and along place the coordinates `text` and `is_token`, false for names of roles. Cells whose whole
    interval lies on one side of 0 are dotted.

    Raises InvalidArgument for a dataset without these.
    """
    found = table(places, ("mean", "low", "high", "count"), ("place", "layer"))
    mean, labels = found["mean"], _labels(places)
    width, height = panel_inches(*mean.shape)
    margin = max(extent(label, LABEL_SIZE) for label in labels) / 72 + 0.15
    total = width + margin + BAR_INCHES
    dots = f"Dots: the whole {interval_words(places)} lies on one side of 0"
    caption = caption_text((*about.caption, dots), 72 * (total - 0.2))
    with plain_settings():
        figure = new_figure(total, height + EDGE_INCHES + caption_inches(caption))
        axes = figure.subplots()
        cells = draw_cells(axes, mean, colours(DIVERGING), symmetric([mean]))
        dot_cells(axes, (found["low"] > 0) | (found["high"] < 0))
        name_empty_rows(axes, mean, found["count"].max(axis=1).astype(np.int64))
        layer_ticks(axes, places["layer"].values.tolist())
        axes.set_yticks(range(len(labels)), labels, size=LABEL_SIZE, parse_math=False)
        panel_titles(axes, width, title="Mean effect at every token", axis=layer_axis(about))
        colour_bar(cells, [axes], height, f"mean indirect effect on {about.measured()}")
        write_caption(figure, caption)
        settle(figure)
    return figure


def _labels(places: xr.Dataset) -> list[str]:
    """Tokens with their spaces marked, roles as they are."""
    rows = zip(places["text"].values.tolist(), places["is_token"].values.tolist(), strict=True)
    return [drawable(visible(text) if token else prose(text)) for text, token in rows]
