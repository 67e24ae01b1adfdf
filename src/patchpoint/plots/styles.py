"""How a trace is coloured: which numbers, on which colours, between which limits, under which titles."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.colors import Colormap

from patchpoint.errors import UnknownName

from .picture import TracePicture
from .settings import DIRECTIONS, STATES, Settings, windowed

DIVERGING = "RdBu_r"
HUES = {"resid": "Purples", "mlp": "Greens", "attn": "Reds"}
MISSING = "#d9d9d9"
ROME_KINDS = {"resid": "state", "mlp": "MLP", "attn": "Attn"}


@dataclass(frozen=True)
class Style:
    """One way to colour traces.

    `cells` gives the numbers that colour stands for, shape (token, layer); `limits` the two ends of the
    colour scale that several pictures share; `bar`, `title` and `axis` the texts of the colour bar, the
    panel and its layer axis.
    """

    cells: Callable[[TracePicture], Float[np.ndarray, "token layer"]]
    limits: Callable[[Sequence[TracePicture]], tuple[float, float]]
    colours: Callable[[TracePicture], Colormap]
    bar: Callable[[TracePicture], str]
    title: Callable[[TracePicture], str]
    axis: Callable[[Settings], str]


def style_named(name: str) -> Style:
    """The style of that name; raises UnknownName."""
    if name not in STYLES:
        raise UnknownName("style", name, STYLES)
    return STYLES[name]


def colours(name: str) -> Colormap:
    """matplotlib's colour map of that name, with grey for what was not measured."""
    return matplotlib.colormaps[name].with_extremes(bad=MISSING)


def largest(values: Float[np.ndarray, "..."]) -> float:
    """The largest magnitude, 0 when there is none; NaN is passed over."""
    return float(np.fmax.reduce(np.abs(values), axis=None, initial=0.0))


def symmetric(values: Sequence[Float[np.ndarray, "..."]]) -> tuple[float, float]:
    """Limits centred on 0 that hold every value; (-1, 1) when all are 0, so that 0 keeps its colour."""
    limit = max(map(largest, values)) or 1.0
    return -limit, limit


def layer_axis(settings: Settings) -> str:
    """Title of the layer axis in plain words, e.g. ``layer whose residual stream is restored``."""
    name, done = STATES[settings.state], DIRECTIONS[settings.direction]
    if windowed(settings):
        return f"centre of the {settings.window} layers whose {name} is {done}"
    return f"layer whose {name} is {done}"


def rome_axis(settings: Settings) -> str:
    """Title of the layer axis as in the figures of Meng et al. 2022."""
    done = DIRECTIONS[settings.direction]
    if settings.state == "resid":
        return f"single {done} layer within {settings.model}"
    kind = ROME_KINDS[settings.state]
    if windowed(settings):
        return f"center of interval of {settings.window} {done} {kind} layers"
    return f"single {done} {kind} layer within {settings.model}"


def rome_title(settings: Settings) -> str:
    """Title of a panel as in the figures of Meng et al. 2022."""
    verb, run = {"restore": ("restoring", "corrupted"), "corrupt": ("corrupting", "clean")}[
        settings.direction
    ]
    return f"Impact of {verb} {ROME_KINDS[settings.state]} after {run} input"


def rome_cells(picture: TracePicture) -> Float[np.ndarray, "token layer"]:
    """The patched run's metric, cut off at the unpatched run's; what went the wrong way is hidden."""
    cut = {"restore": np.maximum, "corrupt": np.minimum}[picture.direction]
    cells: Float[np.ndarray, "token layer"] = cut(picture.p_restored, picture.baseline)
    return cells


def rome_limits(pictures: Sequence[TracePicture]) -> tuple[float, float]:
    """From the unpatched run's metric to the furthest patched one."""
    baselines = [picture.baseline for picture in pictures]
    ends = [
        float(reduce.reduce(rome_cells(p), axis=None, initial=p.baseline))
        for p in pictures
        for reduce in (np.fmin, np.fmax)
    ]
    low, high = min(baselines + ends), max(baselines + ends)
    return (low, high) if low < high else (low, low + 1.0)


def rome_colours(settings: Settings) -> Colormap:
    """One hue per kind of state, darkest where the intervention did most."""
    reverse = {"restore": "", "corrupt": "_r"}[settings.direction]
    return colours(HUES[settings.state] + reverse)


STYLES = {
    "patchpoint": Style(
        cells=lambda picture: picture.values,
        limits=lambda pictures: symmetric([picture.values for picture in pictures]),
        colours=lambda picture: colours(DIVERGING),
        bar=lambda picture: picture.value_title,
        title=lambda picture: picture.model,
        axis=layer_axis,
    ),
    "rome": Style(
        cells=rome_cells,
        limits=rome_limits,
        colours=rome_colours,
        bar=lambda picture: picture.measured,
        title=rome_title,
        axis=rome_axis,
    ),
}
