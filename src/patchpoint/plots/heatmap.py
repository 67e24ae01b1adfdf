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
from .labels import drawable, in_span, token_labels
from .lettering import caption_inches, caption_text, extent, write_caption
from .picture import TracePicture
from .styles import Style, style_named

LABEL_LIMIT = 24
SMALLEST_LABEL = 4.0
BOLD_WIDTH = 1.15


def heatmap(picture: TracePicture, *, style: str = "patchpoint") -> Figure:
    """One trace as a matplotlib figure.

    Style ``patchpoint``: indirect effects on a diverging map centred on 0, so that negative ones show.
    Style ``rome``: the patched run's p(answer) in one hue by kind of state, cut off at p_corrupt, with the
    titles of Meng et al. 2022. Subject tokens are starred and bold, cells not measured grey.

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
    with plain_settings():
        return _drawn(pictures, look)


def _drawn(pictures: Sequence[TracePicture], look: Style) -> Figure:
    sizes = [panel_inches(*picture.values.shape) for picture in pictures]
    widths, height = [width for width, _ in sizes], max(height for _, height in sizes)
    rows = max(len(picture.tokens) for picture in pictures)
    font = min(LABEL_SIZE, max(SMALLEST_LABEL, 72 * height / rows * 0.8))
    labelled = [i == 0 or _rows(pictures[i - 1]) != _rows(picture) for i, picture in enumerate(pictures)]
    barred = [look.colours(a) != look.colours(b) for a, b in pairwise(pictures)] + [True]
    margins = [_label_inches(picture, font) for picture, own in zip(pictures, labelled, strict=True) if own]
    width = sum(widths) + sum(margins) + BAR_INCHES * sum(barred)
    lines = chain.from_iterable(zip(*(picture.caption for picture in pictures), strict=True))
    caption = caption_text(list(lines), 72 * (width - 0.2))

    figure = new_figure(width, height + EDGE_INCHES + caption_inches(caption))
    grid = list(figure.subplots(1, len(pictures), squeeze=False, width_ratios=widths)[0])
    limits, group = look.limits(pictures), list[Axes]()
    for i, (axes, picture) in enumerate(zip(grid, pictures, strict=True)):
        mappable = draw_cells(axes, look.cells(picture), look.colours(picture), limits)
        layer_ticks(axes, picture.layers)
        _token_ticks(axes, picture, font, 72 * height / len(picture.tokens))
        axes.tick_params(left=labelled[i], labelleft=labelled[i])
        panel_titles(axes, widths[i], title=look.title(picture), axis=look.axis(picture))
        group.append(axes)
        if barred[i]:
            colour_bar(figure, mappable, group, height, look.bar(picture))
            group = []
    write_caption(figure, caption)
    settle(figure)
    return figure


def _rows(picture: TracePicture) -> tuple[tuple[str, ...], tuple[int, int] | None]:
    """What decides whether two panels can share their row labels."""
    return picture.tokens, picture.subject_span


def _row_labels(picture: TracePicture) -> tuple[str, ...]:
    return tuple(map(drawable, token_labels(picture.tokens, picture.subject_span, LABEL_LIMIT)))


def _label_inches(picture: TracePicture, font: float) -> float:
    return max(extent(label, font) for label in _row_labels(picture)) * BOLD_WIDTH / 72 + 0.15


def _token_ticks(axes: Axes, picture: TracePicture, font: float, row_points: float) -> None:
    """Label the rows, subject tokens bold; where rows are lower than the text, as many as have room."""
    apart = max(1, round(1.1 * font / row_points))
    by_need = sorted(range(len(picture.tokens)), key=lambda i: (not in_span(i, picture.subject_span), i))
    kept: list[int] = []
    for i in by_need:
        if all(abs(i - other) >= apart for other in kept):
            kept.append(i)
    kept.sort()
    labels = _row_labels(picture)
    axes.set_yticks(kept, [labels[i] for i in kept], size=font, parse_math=False)
    for i, label in zip(kept, axes.get_yticklabels(), strict=True):
        label.set_fontweight("bold" if in_span(i, picture.subject_span) else "normal")
