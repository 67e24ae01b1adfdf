"""Which figures belong to an experiment, beside the averages that all have."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from matplotlib.figure import Figure

from patchpoint.experiments import Measured, Result
from patchpoint.plots.about import About
from patchpoint.plots.averages import role_averages_figure
from patchpoint.plots.beside import beside, rome_panels, spread
from patchpoint.plots.curves import curve
from patchpoint.plots.places import place_heatmap
from patchpoint.plots.role_lines import role_summary
from patchpoint.plots.shares import share_heatmap
from patchpoint.tracing.grid import Grid

from .frames import file_name

SHOWN = 5
"""Facts drawn side by side under several conditions; the book has them all."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure, the name of its files, and what it shows in words."""

    name: str
    words: str
    figure: Figure


def about(name: str, measured: Measured, facts: int | None = None) -> About:
    """How the numbers of a condition were made, for captions."""
    settings = measured.settings
    std = "" if measured.noise_std is None else f" (std {measured.noise_std:.4g})"
    return About(
        model=measured.model,
        condition=name,
        facts=len(measured.grids) if facts is None else facts,
        noise=f"{settings.noise}{std}",
        samples=settings.samples,
        seed=settings.seed,
        metric=settings.metric,
        state=settings.state,
        window=settings.window,
        direction=settings.direction,
        method=settings.method,
        sever=settings.sever,
    )


def averages_of(result: Result) -> Iterator[Picture]:
    """Averages by role of every condition: the mean effect with its interval, and all measures' mean and std."""
    for name, measured in result.conditions.items():
        said = about(name, measured)
        yield Picture(
            file_name(f"summary {name}"),
            f"{name}: mean effect by token role and layer, with 95% intervals over facts",
            role_summary(result.average(name), said),
        )
        both = {
            measure: result.average(name, measure) for measure in ("indirect_effect", "percent_improvement")
        }
        yield Picture(
            file_name(f"averages {name}"),
            f"{name}: mean and standard deviation of effect and percent improvement by role and layer",
            role_averages_figure(both, said),
        )


def own_pictures(name: str, result: Result) -> Iterator[Picture]:
    """The figures that only this experiment has."""
    return OWN[name](result) if name in OWN else iter(())


def _shares(result: Result) -> Iterator[Picture]:
    for name, measured in result.conditions.items():
        found = result.findings[f"wrong sign, {name}"]
        words = f"{name}: share of facts whose effect has the unexpected sign, by role and layer"
        yield Picture(file_name(f"wrong sign {name}"), words, share_heatmap(found, about(name, measured)))


def _levels(result: Result) -> Iterator[Picture]:
    measured = next(iter(result.conditions.values()))
    said = replace(about("noise of many standard deviations", measured), noise="Gaussian, std along x")
    yield Picture(
        "by-level",
        "corrupted probability, mean effect and largest effect against the standard deviation of the noise",
        curve(
            result.findings,
            x_title="standard deviation of the noise",
            y_title="probability",
            log_x=True,
            about=said,
        ),
    )


def _calibration(result: Result) -> Iterator[Picture]:
    answer = result.answer
    said = About(
        model=str(answer["model"]),
        condition="calibration of the noise",
        done="the subjects' embeddings noised, nothing restored",
        facts=int(str(answer["facts"])),
        noise=str(answer["noise"]),
        samples=int(str(answer["samples"])),
        seed=int(str(answer["seed"])),
    )
    yield Picture(
        "levels",
        "mean p_corrupt over mean p_clean against the level of the noise",
        curve(
            {"p_corrupt / p_clean": result.findings["ratio"]},
            x_title="level of the noise, in units of the embedding",
            y_title="mean p_corrupt / mean p_clean",
            log_x=True,
            about=said,
            marked=float(str(answer["level"])),
        ),
    )


def _places(result: Result) -> Iterator[Picture]:
    for name, measured in result.conditions.items():
        words = f"{name}: mean effect at every token of the sentences in front, then by role in the prompt"
        drawn = place_heatmap(result.findings[name], about(name, measured))
        yield Picture(file_name(f"places {name}"), words, drawn)


def _positions(result: Result) -> Iterator[Picture]:
    measured = next(one for name, one in result.conditions.items() if name.startswith("order"))
    said = about("sentences in front, in every order", measured)
    stacked = result.findings["stacked"]
    by_layer = {f"position {p}": stacked.sel(position=p, drop=True) for p in stacked["position"].values}
    yield Picture(
        "by-position",
        "effect of a sentence, summed over its tokens, by its position and by layer",
        curve(by_layer, x_title="layer", y_title="summed indirect effect", log_x=False, about=said),
    )


def _severed(result: Result) -> Iterator[Picture]:
    measured = next(iter(result.conditions.values()))
    role = "last subject token"
    curves = {name: result.average(name).sel(role=role, drop=True) for name in result.conditions}
    yield Picture(
        "severed",
        f"mean effect at the {role} by layer: intact, MLPs severed, attention severed",
        curve(
            curves,
            x_title="layer whose state is restored",
            y_title=f"mean indirect effect, {role}",
            log_x=False,
            about=about("intact and severed", measured),
        ),
    )


def _spread(result: Result) -> Iterator[Picture]:
    measured = next(iter(result.conditions.values()))
    found, grid = result.findings["spread"], measured.grids[0]
    n = len(measured.grids)
    mean = Grid(
        **{
            **vars(grid),
            "number": result.answer["row of the file"],
            "effect": found["mean"].values,
            "effect_se": found["std"].values / np.sqrt(n),
            "p_corrupt": float(np.mean([one.p_corrupt for one in measured.grids])),
        }
    )
    yield Picture(
        "spread",
        f"mean and standard deviation of the effect over {n} draws of noise, by token and layer",
        spread(mean, found["std"].values, about(f"{n} draws of noise", measured, 1)),
    )


def _rome(result: Result) -> Iterator[Picture]:
    for grids in _side_by_side(result):
        said = {name: about(name, result.conditions[name], 1) for name in grids}
        first = next(iter(grids.values()))
        words = f"states, MLP and attention windows of “{first.prompt}”"
        yield Picture(f"rome-{first.number:06d}", words, rome_panels(grids, said))


def _beside(result: Result) -> Iterator[Picture]:
    for grids in islice(_side_by_side(result), SHOWN):
        said = {name: about(name, result.conditions[name], 1) for name in grids}
        first = next(iter(grids.values()))
        words = f"“{first.prompt}” under {', '.join(grids)}, on one colour scale"
        yield Picture(f"beside-{first.number:06d}", words, beside(grids, said))


def _side_by_side(result: Result) -> Iterator[Mapping[str, Grid]]:
    """Each fact that was traced under every condition."""
    by_condition = {
        name: {grid.number: grid for grid in measured.grids} for name, measured in result.conditions.items()
    }
    shared = set.intersection(*(set(grids) for grids in by_condition.values()))
    for number in sorted(shared):
        yield {name: grids[number] for name, grids in by_condition.items()}


def _both(*parts: Callable[[Result], Iterator[Picture]]) -> Callable[[Result], Iterator[Picture]]:
    def pictures(result: Result) -> Iterator[Picture]:
        for part in parts:
            yield from part(result)

    return pictures


OWN: dict[str, Callable[[Result], Iterator[Picture]]] = {
    "wrong-direction": _shares,
    "vary-noise": _levels,
    "prefix": _places,
    "fact-position": _positions,
    "repeat": _spread,
    "fresh-noise": _beside,
    "rome": _rome,
    "severed": _both(_severed, _beside),
    "calibrate": _calibration,
    "compare-models": _both(_beside, _shares),
}
