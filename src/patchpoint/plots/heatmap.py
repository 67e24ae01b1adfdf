"""Heatmaps of causal traces, tokens as rows from the top and layers along x.

`heatmap` draws one trace; `panels` draws several side by side on one colour scale, such as the state, MLP
and attention traces of one prompt, or one prompt on several models.
"""

from collections.abc import Sequence
from itertools import chain, pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from patchpoint.errors import InvalidArgument

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
from .lettering import caption_inches, caption_text, write_caption
from .picture import DOTS, TracePicture
from .rows import label_font, label_inches, token_ticks
from .styles import Style, style_named


def heatmap(picture: TracePicture, *, style: str = "patchpoint") -> Figure:
    """One trace as a matplotlib figure.

    Style ``patchpoint``: indirect effects on a diverging map centred on 0, so that negative ones show.
    Style ``rome``: the patched run's p(answer) in one hue by kind of state, cut off at p_corrupt, with the
    titles of Meng et al. 2022. Subject tokens are starred and bold, cells not measured grey,
    estimates dotted.

    Raises UnknownName for an unknown style.
    """
    return panels([picture], style=style)


def panels(pictures: Sequence[TracePicture], *, style: str = "patchpoint") -> Figure:
    """Several traces side by side on one colour scale, as one matplotlib figure; styles as in `heatmap`.

    Raises InvalidArgument when there is no picture or their metrics or directions differ (they would not
    share a scale), UnknownName for an unknown style.
    """
    look = style_named(style)
    scales = sorted({(picture.metric, picture.direction) for picture in pictures})
    if len(scales) != 1:
        raise InvalidArgument(
            f"panels share one colour scale but got {len(pictures)} pictures with {scales or 'no'} "
            "(metric, direction); give one or more pictures that agree on both"
        )
    lines = list(chain.from_iterable(zip(*(picture.caption for picture in pictures), strict=True)))
    if any(picture.estimated.any() for picture in pictures):
        lines.append(DOTS)
    with plain_settings():
        return draw_panels(pictures, look, lines)


def draw_panels(pictures: Sequence[TracePicture], look: Style, said: Sequence[str]) -> Figure:
    """Draw pictures that agree in metric and direction, with a caption of these lines."""
    sizes = [panel_inches(*picture.values.shape) for picture in pictures]
    widths, height = [width for width, _ in sizes], max(height for _, height in sizes)
    rows = max(len(picture.tokens) for picture in pictures)
    font = label_font(height, rows)
    labelled = [i == 0 or _rows(pictures[i - 1]) != _rows(picture) for i, picture in enumerate(pictures)]
    barred = [look.colours(a) != look.colours(b) for a, b in pairwise(pictures)] + [True]
    margins = [
        label_inches(picture.tokens, picture.subject_span, font)
        for picture, own in zip(pictures, labelled, strict=True)
        if own
    ]
    width = sum(widths) + sum(margins) + BAR_INCHES * sum(barred)
    caption = caption_text(said, 72 * (width - 0.2))

    figure = new_figure(width, height + EDGE_INCHES + caption_inches(caption))
    grid = list(figure.subplots(1, len(pictures), squeeze=False, width_ratios=widths)[0])
    limits, group = look.limits(pictures), list[Axes]()
    for i, (axes, picture) in enumerate(zip(grid, pictures, strict=True)):
        mappable = draw_cells(axes, look.cells(picture), look.colours(picture), limits)
        layer_ticks(axes, picture.layers)
        dot_cells(axes, picture.estimated)
        token_ticks(axes, picture.tokens, picture.subject_span, font=font, height=height)
        axes.tick_params(left=labelled[i], labelleft=labelled[i])
        panel_titles(axes, widths[i], title=look.title(picture), axis=look.axis(picture))
        group.append(axes)
        if barred[i]:
            colour_bar(mappable, group, height, look.bar(picture))
            group = []
    write_caption(figure, caption)
    settle(figure)
    return figure


def _rows(picture: TracePicture) -> tuple[tuple[str, ...], tuple[int, int] | None]:
    """What decides whether two panels can share their row labels."""
    return picture.tokens, picture.subject_span
