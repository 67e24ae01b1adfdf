"""One page per fact: its indirect effects and their share of the total effect, each with and without cut-off."""

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from patchpoint.errors import UnknownName
from patchpoint.tracing.grid import Grid
from patchpoint.tracing.measures import MEASURES

from .about import About, dots, fact_caption, fact_title
from .cells import (
    AXIS_SIZE,
    BAR_INCHES,
    EDGE_INCHES,
    colour_bar,
    new_figure,
    panel_titles,
    plain_settings,
    settle,
)
from .lettering import (
    caption_inches,
    caption_text,
    heading_inches,
    heading_text,
    wrapped,
    write_caption,
    write_heading,
)
from .panel import Panel, Sizes, page_sizes
from .rows import label_inches
from .styles import DIVERGING, colours, layer_axis, symmetric


@dataclass(frozen=True)
class MeasureLook:
    """What a bar or an axis says of a measure of ``p(␣Paris)``, and whether it is a ratio, shown in percent."""

    words: str
    ratio: bool

    def number(self, value: float) -> str:
        """A value to three digits, in percent where it is a ratio."""
        return f"{100 * value:.3g}%" if self.ratio else f"{value:.3g}"


EFFECT, IMPROVEMENT = (
    MeasureLook("indirect effect on {}", False),
    MeasureLook("percent improvement of {}", True),
)
LOOKS = {
    "indirect_effect": EFFECT,
    "indirect_effect_cut": EFFECT,
    "percent_improvement": IMPROVEMENT,
    "percent_improvement_cut": IMPROVEMENT,
}
PAGE = (("indirect_effect", "indirect_effect_cut"), ("percent_improvement", "percent_improvement_cut"))


def look_of(measure: str) -> MeasureLook:
    """How a measure of `tracing.measures` reads; raises UnknownName."""
    if measure not in LOOKS:
        raise UnknownName("measure", measure, LOOKS)
    return LOOKS[measure]


def in_percent(axis: Axis) -> None:
    """Write the ticks of ratios in percent."""
    axis.set_major_formatter(PercentFormatter(1.0))


def measure_page(grid: Grid, about: About) -> Figure:
    """The four measures of one fact on a page, tokens as rows, subject starred and bold.

    Indirect effects (units of the metric) above, percent improvement (effect over |total effect|) below; left
    in full, right with the unexpected sign cut off at 0. Two panels of one kind share a scale centred on 0.
    Cells without a value are grey, estimates dotted. Meng et al. 2022, section 2.

    Raises InvalidArgument for infinite effects or no site at all.
    """
    sizes = page_sizes(*grid.effect.shape)
    margin = label_inches(grid.tokens, grid.subject_span, sizes.font)
    total = 2 * sizes.width + margin + 0.15 + BAR_INCHES
    caption = caption_text([*fact_caption(grid, about), *dots([grid])], 72 * (total - 0.2))
    heading = heading_text(fact_title(grid), 72 * (total - 0.2))
    with plain_settings():
        edges = 2 * EDGE_INCHES + caption_inches(caption) + heading_inches(heading)
        figure = new_figure(total, 2 * sizes.height + edges)
        write_heading(figure, heading)
        for pair, names in zip(figure.subplots(2, 2), PAGE, strict=True):
            _draw_pair(list(pair), names, grid, about, sizes)
        for axes in figure.axes[2:4]:
            axes.set_xlabel(wrapped(layer_axis(about), 72 * sizes.width, AXIS_SIZE), size=AXIS_SIZE)
        write_caption(figure, caption)
        settle(figure)
    return figure


def _draw_pair(pair: list[Axes], names: tuple[str, ...], grid: Grid, about: About, sizes: Sizes) -> None:
    """Panels of one kind on one scale, the second without row labels."""
    panels = [Panel.of(grid, MEASURES[name](grid)) for name in names]
    limits = symmetric([panel.values for panel in panels])
    for axes, name, panel in zip(pair, names, panels, strict=True):
        cells = panel.draw(axes, colours(DIVERGING), limits, sizes)
        panel_titles(axes, sizes.width, title=MEASURES[name].title.capitalize(), axis="")
    pair[1].tick_params(left=False, labelleft=False)
    look = LOOKS[names[0]]
    bar = colour_bar(cells, pair, sizes.height, look.words.format(about.measured(grid.answer)))
    if look.ratio:
        in_percent(bar.long_axis)
