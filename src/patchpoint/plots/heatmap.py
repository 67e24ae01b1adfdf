"""Heatmaps of causal traces, tokens as rows from the top and layers along x.

`heatmap` draws one trace; `panels` draws several side by side on one colour scale, such as the state, MLP
and attention traces of one prompt, or one prompt on several models.
"""

from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from patchpoint.errors import InvalidArgument

from .cells import TEXT, colour_bar, draw_cells, layer_ticks, panel_inches
from .lettering import caption_text, extent, line_inches, wrapped, write_caption
from .labels import drawable, in_span, prose, shortened, token_labels
from .picture import TracePicture
from .styles import Style, style_named

LABEL_LIMIT = 24
LABEL_SIZE = 9.0
SMALLEST_LABEL = 4.0
TITLE_SIZE = 9.5
BAR_INCHES = 0.95
EDGE_INCHES = 0.85
BOLD = 1.12


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
    with rc_context(TEXT):
        return _drawn(pictures, look)


def _drawn(pictures: Sequence[TracePicture], look: Style) -> Figure:
    rows = max(len(picture.tokens) for picture in pictures)
    widths, heights = zip(*(panel_inches(*picture.values.shape) for picture in pictures), strict=True)
    height = max(heights)
    font = min(LABEL_SIZE, max(SMALLEST_LABEL, 72 * height / rows * 0.8))
    columns = [_row_labels(picture) for picture in pictures]
    shown = [i == 0 or _rows_differ(pictures[i - 1], pictures[i]) for i in range(len(pictures))]
    barred = [i + 1 == len(pictures) or ... ]
