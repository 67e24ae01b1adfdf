"""Interactive pictures of traces, each one HTML file with everything inside: nothing is ever fetched."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from patchpoint.errors import InvalidArgument

from .labels import in_span, prose, shortened, token_labels, visible
from .page import View, page
from .picture import RolePicture, TracePicture
from .settings import DIRECTIONS
from .styles import layer_axis

TICK_LIMIT = 24
ANSWER_LIMIT = 24


def trace_html(picture: TracePicture) -> str:
    """One trace as an HTML page: heatmap with hover, caption, and a table of the values.

    Hover gives token, layer, indirect effect, the patched run's metric and, when known, the standard error.
    Colours are centred on 0; subject tokens are starred and bold.
    """
    return page(f"Causal trace in {prose(picture.model)}", [_trace_view(picture)])


def facts_page(pictures: Sequence[TracePicture], role: RolePicture | None = None) -> str:
    """Traces of many facts as one HTML page with a list to choose from.

    The average by token role, when given, is the first entry. Each entry has its own colour scale, centred
    on 0; the address of the page ends in the number of the entry shown. Raises InvalidArgument when there
    is nothing to show.
    """
    views = [_role_view(role)] if role is not None else []
    views += [_trace_view(picture) for picture in pictures]
    if not views:
        raise InvalidArgument("a page of facts got no picture and no average by role; give at least one")
    models = [role.model] if role is not None else []
    models += [picture.model for picture in pictures]
    return page(f"Causal traces in {prose(', '.join(dict.fromkeys(models)))}", views)


def _trace_view(picture: TracePicture) -> View:
    starred = tuple(in_span(i, picture.subject_span) for i in range(len(picture.tokens)))
    error = picture.standard_error
    return View(
        choice=f"{prose(picture.prompt)} → {shortened(visible(picture.answer), ANSWER_LIMIT)}",
        caption=picture.caption,
        names=tuple(
            f"{visible(token)}{'*' if star else ''} (token {i})"
            for i, (token, star) in enumerate(zip(picture.tokens, starred, strict=True))
        ),
        ticks=token_labels(picture.tokens, picture.subject_span, TICK_LIMIT),
        starred=starred,
        layers=tuple(prose(str(layer)) for layer in picture.layers),
        axis=layer_axis(picture),
        values=(picture.value_title, picture.values),
        more=(
            (f"{picture.measured} {DIRECTIONS[picture.direction]}", picture.p_restored),
            *_estimates(picture),
        ),
        spread=None if error is None else ("standard error", error),
    )


def _estimates(picture: TracePicture) -> tuple[tuple[str, Float[np.ndarray, "token layer"]], ...]:
    """Which values are estimates, told on hover and in the table, when any is."""
    if not picture.estimated.any():
        return ()
    return (("estimate (1) or measurement (0)", picture.estimated.astype(np.float64)),)


def _role_view(picture: RolePicture) -> View:
    return View(
        choice="Average by token role",
        caption=picture.caption,
        names=picture.row_labels,
        ticks=picture.row_labels,
        starred=(False,) * len(picture.roles),
        layers=tuple(prose(str(layer)) for layer in picture.layers),
        axis=layer_axis(picture),
        values=(picture.value_title, picture.mean),
        spread=("standard deviation", picture.std),
    )
