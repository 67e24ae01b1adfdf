"""What tests read off a drawn figure."""

from io import BytesIO

import numpy as np
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.text import Text


def meshes(figure):
    """The heatmaps of a figure as (axes, mesh), colour bars left out."""
    return [
        (axes, artist)
        for axes in figure.axes
        for artist in axes.get_children()
        if isinstance(artist, QuadMesh) and axes.get_label() != "<colorbar>"
    ]


def values_of(figure):
    """The numbers of each heatmap, NaN where masked."""
    return [np.ma.filled(np.ma.asarray(mesh.get_array(), dtype=float), np.nan) for _, mesh in meshes(figure)]


def dots_of(axes):
    """(row, layer) of each dot of a panel."""
    found = [artist for artist in axes.get_children() if isinstance(artist, PathCollection)]
    return {(int(y), int(x)) for artist in found for x, y in artist.get_offsets()}


def bar_axes(figure):
    """The colour bars, those inset into a panel too."""
    return [axes for axes in _all_axes(figure) if getattr(axes, "_colorbar", None)]


def bars_of(figure):
    """The colour bars' titles, each in one line."""
    return [axes.get_ylabel().replace("\n", " ") for axes in bar_axes(figure)]


def _all_axes(figure):
    return [found for axes in figure.axes for found in (axes, *axes.child_axes)]


def caption_of(figure):
    return figure.get_supxlabel().replace("\n", " ")


def row_labels(axes):
    return [label.get_text() for label in axes.get_yticklabels() if label.get_visible()]


def outside(figure):
    """Texts that do not lie within the page once it is drawn."""
    figure.savefig(BytesIO(), format="png")
    page, unseen = figure.bbox, set()
    for axes in _all_axes(figure):
        for axis, (low, high) in (
            (axes.yaxis, sorted(axes.get_ylim())),
            (axes.xaxis, sorted(axes.get_xlim())),
        ):
            ticks = [tick for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high]
            unseen |= {label for tick in ticks for label in (tick.label1, tick.label2)}
    drawn = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text() and t not in unseen]
    return [
        text.get_text()
        for text in drawn
        for box in [text.get_window_extent()]
        if box.x0 < -1 or box.y0 < -1 or box.x1 > page.x1 + 1 or box.y1 > page.y1 + 1
    ]
