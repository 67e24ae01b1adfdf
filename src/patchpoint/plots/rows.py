"""Token texts beside the rows of a heatmap: subject starred and bold, as many as have room."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from .labels import drawable, in_span, token_labels
from .lettering import extent

LABEL_LIMIT = 24
LABEL_SIZE = 9.0
SMALLEST_LABEL = 4.0
BOLD_WIDTH = 1.15


def label_font(height: float, rows: int) -> float:
    """Font size in points that fits `rows` labels into `height` inches, within readable limits."""
    return min(LABEL_SIZE, max(SMALLEST_LABEL, 72 * height / rows * 0.8))


def label_inches(tokens: Sequence[str], span: tuple[int, int] | None, font: float) -> float:
    """Width of the widest label."""
    return max(extent(label, font) for label in _labels(tokens, span)) * BOLD_WIDTH / 72 + 0.15


def token_ticks(
    axes: Axes, tokens: Sequence[str], span: tuple[int, int] | None, *, font: float, height: float
) -> None:
    """Label rows of together `height` inches; where rows are lower than the text, the subject goes first."""
    apart = max(1, round(1.1 * font * len(tokens) / (72 * height)))
    by_need = sorted(range(len(tokens)), key=lambda i: (not in_span(i, span), i))
    kept: list[int] = []
    for i in by_need:
        if all(abs(i - other) >= apart for other in kept):
            kept.append(i)
    kept.sort()
    labels = _labels(tokens, span)
    axes.set_yticks(kept, [labels[i] for i in kept], size=font, parse_math=False)
    for i, label in zip(kept, axes.get_yticklabels(), strict=True):
        label.set_fontweight("bold" if in_span(i, span) else "normal")


def _labels(tokens: Sequence[str], span: tuple[int, int] | None) -> tuple[str, ...]:
    return tuple(map(drawable, token_labels(tokens, span, LABEL_LIMIT)))
