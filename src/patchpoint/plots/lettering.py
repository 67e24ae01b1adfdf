"""Text set in matplotlib figures: its measured width, lines that fit, and the caption below a figure."""

import math
import textwrap
from collections.abc import Sequence

from matplotlib import font_manager
from matplotlib.figure import Figure

from .labels import FONT, drawable

CAPTION_SIZE = 7.5
LINE_SPACING = 1.35
HEADING_SIZE = 10.0
BOLDER = 1.18


def extent(text: str, size: float) -> float:
    """Width in points of one line of drawable `text` at font size `size`, regular weight."""
    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties(family=FONT)))
    font.set_size(size, 72)
    font.set_text(text, 0.0)
    return float(font.get_width_height()[0]) / 64


def wrapped(text: str, width: float, size: float) -> str:
    """`text` made drawable and broken into lines at most `width` points wide at font size `size`."""
    text = drawable(text)
    columns = max(1, math.ceil(len(text) * width / max(1.0, extent(text, size))))
    lines = textwrap.wrap(text, columns)
    while columns > 1 and any(extent(line, size) > width for line in lines):
        columns -= 1
        lines = textwrap.wrap(text, columns)
    return "\n".join(lines)


def caption_text(lines: Sequence[str], width: float) -> str:
    """Caption lines, each wrapped to `width` points, repeated lines once."""
    return "\n".join(wrapped(line, width, CAPTION_SIZE) for line in dict.fromkeys(lines))


def caption_inches(text: str) -> float:
    """Height of a caption."""
    return (text.count("\n") + 1) * CAPTION_SIZE * LINE_SPACING / 72


def write_caption(figure: Figure, text: str) -> None:
    """Put a caption below everything else, flush left."""
    style = {"ha": "left", "fontsize": CAPTION_SIZE, "color": "#333333", "linespacing": LINE_SPACING}
    figure.supxlabel(text, x=0.01, **style)


def heading_text(text: str, width: float) -> str:
    """A heading, wrapped to `width` points."""
    return wrapped(text, width, HEADING_SIZE * BOLDER)


def heading_inches(text: str) -> float:
    """Height of a heading with some room below."""
    return (text.count("\n") + 1) * HEADING_SIZE * LINE_SPACING / 72 + 0.08


def write_heading(figure: Figure, text: str) -> None:
    """Put a heading above everything else, flush left."""
    figure.suptitle(text, x=0.01, ha="left", fontsize=HEADING_SIZE, fontweight="bold")
