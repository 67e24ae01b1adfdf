"""One fact under several conditions side by side, the spread of repeats, and the three panels of ROME."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from patchpoint.errors import InvalidArgument, UnknownName
from patchpoint.tracing.grid import Grid

from .about import About, captions, dots, fact_caption, fact_title
from .cells import (
    BAR_INCHES,
    EDGE_INCHES,
    colour_bar,
    new_figure,
    panel_titles,
    plain_settings,
    settle,
)
from .heatmap import draw_panels
from .labels import prose
from .lettering import (
    caption_inches,
    caption_text,
    heading_inches,
    heading_text,
    write_caption,
    write_heading,
)
from .panel import Panel, Sizes, page_sizes
from .picture import TracePicture
from .rows import label_inches
from .settings import STATES
from .styles import DIVERGING, HUES, STYLES, colours, largest, layer_axis, symmetric

COLUMNS = 4
LEAST_INCHES = 5.0


@dataclass(frozen=True, eq=False)
class Side:
    """A panel with its texts and colours; `bar` titles a colour bar for it and those before it without one."""

    panel: Panel
    title: str
    axis: str
    colours: str
    limits: tuple[float, float]
    bar: str | None = None


def picture_of(grid: Grid, about: About) -> TracePicture:
    """A grid as the picture that `heatmap` and `trace_html` draw; InvalidArgument without p_clean, p_corrupt."""
    return TracePicture(
        values=grid.effect,
        standard_error=grid.effect_se,
        exact=grid.exact,
        tokens=grid.tokens,
        layers=tuple(range(grid.effect.shape[1])),
        subject_span=grid.subject_span,
        prompt=grid.prompt,
        answer=grid.answer,
        p_clean=grid.p_clean,
        p_corrupt=grid.p_corrupt,
        model=about.model,
        noise=about.noise,
        samples=about.samples,
        seed=about.seed,
        state=about.state,
        window=about.window,
        direction=grid.direction,
        metric=about.metric,
    )


def rome_panels(grids: Mapping[str, Grid], abouts: Mapping[str, About]) -> Figure:
    """State, MLP and attention of one fact in the style of Meng et al. 2022, figure 1, on one scale.

    Keys are of ``resid``, ``mlp``, ``attn``, drawn in this order; estimates are dotted.

    Raises UnknownName for another key, InvalidArgument for keys, states, metrics or directions that differ.
    """
    _check_pairs(grids, abouts)
    for name in grids:
        if name not in STATES:
            raise UnknownName("state", name, STATES)
        if abouts[name].state != name:
            raise InvalidArgument(
                f"the panel {name!r} got settings of state {abouts[name].state!r}; give those of its own trace"
            )
    names = [name for name in STATES if name in grids]
    directions = sorted({grid.direction for grid in grids.values()})
    if len(directions) != 1:
        raise InvalidArgument(f"panels share one scale but have directions {directions}; give one direction")
    pictures = [picture_of(grids[name], abouts[name]) for name in names]
    facts = dict.fromkeys(fact_title(grids[name]) for name in names)
    lines = captions({name: grids[name] for name in names}, abouts)
    with plain_settings():
        return draw_panels(pictures, STYLES["rome"], [*facts, *lines])


def beside(grids: Mapping[str, Grid], abouts: Mapping[str, About]) -> Figure:
    """Indirect effects of several conditions side by side on one colour scale centred on 0.

    Keys name the conditions and are the same in both. Row labels are shared where tokens agree; more than
    four panels go into further rows. Models may differ in their layers, directions may differ too.

    Raises InvalidArgument without a grid, for keys that differ, and for metrics that differ.
    """
    _check_pairs(grids, abouts)
    panels = {name: Panel.of(grid, grid.effect) for name, grid in grids.items()}
    limits = symmetric([panel.values for panel in panels.values()])
    answers = {grid.answer for grid in grids.values()}
    about = next(iter(abouts.values()))
    measured = about.measured(answers.pop() if len(answers) == 1 else None)
    drawn = [
        Side(panel, prose(name), layer_axis(abouts[name]), DIVERGING, limits)
        for name, panel in panels.items()
    ]
    columns = -(-len(drawn) // -(-len(drawn) // COLUMNS))
    rows = [drawn[i : i + columns] for i in range(0, len(drawn), columns)]
    # A bar within a row that is not full would push the columns apart; the scale is that of the rows above.
    for row in rows:
        if len(row) == columns:
            row[-1] = replace(row[-1], bar=f"indirect effect on {measured}")
    facts = dict.fromkeys(fact_title(grid) for grid in grids.values())
    return _drawn(rows, list(facts), captions(grids, abouts))


def spread(mean: Grid, std: Float[np.ndarray, "token layer"], about: About) -> Figure:
    """The mean of one fact's effect over repeats, on a scale centred on 0, beside its standard deviation.

    `std`, shape (token, layer), is in units of the metric, NaN where not known.

    Raises InvalidArgument for another shape, infinite or negative values.
    """
    means, deviations = Panel.of(mean, mean.effect), Panel.of(mean, std)
    if (deviations.values < 0).any():
        raise InvalidArgument(f"std holds {np.nanmin(std):.4g}, expected no negative values")
    measured, axis = about.measured(mean.answer), layer_axis(about)
    ends = 0.0, largest(deviations.values) or 1.0
    row = [
        Side(
            means,
            "Mean over repeats",
            axis,
            DIVERGING,
            symmetric([means.values]),
            bar=f"mean indirect effect on {measured}",
        ),
        Side(
            deviations,
            "Standard deviation over repeats",
            axis,
            HUES[about.state],
            ends,
            bar=f"standard deviation of effect on {measured}",
        ),
    ]
    return _drawn([row], [fact_title(mean)], [*fact_caption(mean, about), *dots([mean])])


def _drawn(rows: Sequence[Sequence[Side]], heading: Sequence[str], said: Sequence[str]) -> Figure:
    """Draw rows of panels, all of one height, panels of one column of one width."""
    sides = [side for row in rows for side in row]
    shapes = np.array([side.panel.values.shape for side in sides])
    sizes = page_sizes(*shapes.max(axis=0).tolist())
    columns = [[row[i] for row in rows if i < len(row)] for i in range(len(rows[0]))]
    widths = [max(page_sizes(*side.panel.values.shape).width for side in column) for column in columns]
    labelled = {side for row in rows for side in _labelled(row)}
    margins = [
        max((label_inches(*side.panel.rows, sizes.font) for side in column if side in labelled), default=0.1)
        for column in columns
    ]
    bars = max(sum(side.bar is not None for side in row) for row in rows)
    total = max(sum(widths) + sum(margins) + BAR_INCHES * bars, LEAST_INCHES)
    caption = caption_text(said, 72 * (total - 0.2))
    title = heading_text(" / ".join(heading), 72 * (total - 0.2))
    with plain_settings():
        edges = len(rows) * EDGE_INCHES + caption_inches(caption) + heading_inches(title)
        figure = new_figure(total, len(rows) * sizes.height + edges)
        write_heading(figure, title)
        grid = figure.subplots(len(rows), len(columns), squeeze=False, width_ratios=widths)
        for row, line in zip(rows, grid, strict=True):
            _draw_row(row, line.tolist(), sizes, widths, labelled)
        write_caption(figure, caption)
        settle(figure)
    return figure


def _draw_row(
    row: Sequence[Side], line: Sequence[Axes], sizes: Sizes, widths: Sequence[float], labelled: set[Side]
) -> None:
    """Draw panels from the left; places beyond them stay empty."""
    group: list[Axes] = []
    for axes, side, width in zip(line, row, widths, strict=False):
        cells = side.panel.draw(axes, colours(side.colours), side.limits, sizes)
        axes.tick_params(left=side in labelled, labelleft=side in labelled)
        panel_titles(axes, width, title=side.title, axis=side.axis)
        group.append(axes)
        if side.bar is not None:
            colour_bar(cells, group, sizes.height, side.bar)
            group = []
    for axes in line[len(row) :]:
        axes.set_axis_off()


def _labelled(row: Sequence[Side]) -> list[Side]:
    """The panels of a row with row labels of their own: the first, and each whose tokens are new."""
    return [side for i, side in enumerate(row) if i == 0 or row[i - 1].panel.rows != side.panel.rows]


def _check_pairs(grids: Mapping[str, Grid], abouts: Mapping[str, About]) -> None:
    if not grids or set(grids) != set(abouts):
        raise InvalidArgument(
            f"panels got heatmaps {list(grids)} and settings {list(abouts)}; give one of each, of equal names"
        )
    metrics = sorted({about.metric for about in abouts.values()})
    if len(metrics) > 1:
        raise InvalidArgument(f"panels share one colour scale but have metrics {metrics}; give one metric")
