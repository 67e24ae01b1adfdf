"""The pictures of a run on disk or of a live trace, and the files they are written to."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from patchpoint.errors import InvalidArgument, UnknownName
from patchpoint.results import SavedRun
from patchpoint.results.averages import saved_roles
from patchpoint.results.disk import replacing
from patchpoint.tracing import Trace

from .heatmap import heatmap
from .html import facts_page
from .picture import RolePicture, TracePicture
from .roles import role_heatmap
from .save import save
from .styles import style_named

FORMATS = ("png", "svg", "pdf", "html")


@dataclass(frozen=True)
class Look:
    """Formats to draw, and the style of drawing."""

    formats: tuple[str, ...] = ("png", "html")
    style: str = "patchpoint"

    def __post_init__(self) -> None:
        style_named(self.style)
        for name in self.formats:
            if name not in FORMATS:
                raise UnknownName("picture format", name, FORMATS)


def formats_named(text: str) -> tuple[str, ...]:
    """Picture formats from a list with commas, such as `png,html`."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def trace_picture(trace: Trace) -> TracePicture:
    """The picture of a live trace."""
    settings = trace.settings
    return TracePicture(
        values=trace.effect.values,
        standard_error=trace.effect_se.values,
        exact=trace.exact.values,
        tokens=trace.tokens,
        layers=tuple(range(trace.effect.sizes["layer"])),
        subject_span=trace.subject_span,
        prompt=trace.prompt.text,
        answer=trace.answer,
        noise=_noise(str(settings["noise"]), trace.noise_std),
        p_clean=trace.p_clean,
        p_corrupt=trace.p_corrupt,
        **{
            name: settings[name]
            for name in ("model", "samples", "seed", "state", "window", "direction", "metric")
        },  # type: ignore[arg-type]
    )


def saved_pictures(run: SavedRun) -> Iterator[tuple[int, TracePicture]]:
    """Number and picture of each traced fact of a run."""
    for number in run.traced():
        row = run.fact(number)
        yield (
            number,
            TracePicture(
                values=run.effect(number).values,
                standard_error=run.measure(number, "effect_se").values,
                exact=run.exact(number).values,
                tokens=tuple(row["tokens"]),
                layers=tuple(range(run.effect(number).sizes["layer"])),
                subject_span=(row["subject_start"], row["subject_stop"]),
                prompt=row["prompt"],
                answer=row["answer"],
                noise=_noise(run.record.arguments["noise"], row["noise_std"]),
                p_clean=row["p_clean"],
                p_corrupt=row["p_corrupt"],
                **_settings(run),
            ),
        )


def role_picture(run: SavedRun) -> RolePicture:
    """The average by token role of a run's traced facts; InvalidArgument when there are none."""
    numbers, roles = run.traced(), saved_roles(run)
    if roles is None:
        raise InvalidArgument(
            "no fact of this run was traced, so there is no average; see the reasons in its facts table"
        )
    stds = {run.fact(number)["noise_std"] for number in numbers}
    return RolePicture(
        mean=roles["mean"].values,
        std=roles["std"].values,
        count=roles["count"].values,
        layers=tuple(roles["layer"].values.tolist()),
        prompts=f"{len(numbers)} facts",
        noise=_noise(run.record.arguments["noise"], stds.pop() if len(stds) == 1 else None),
        **_settings(run),
    )


def draw_run(
    run: SavedRun,
    folder: Path,
    look: Look,
    on_drawn: Callable[[], None] = lambda: None,
) -> list[Path]:
    """Write a run's pictures into a folder and return their paths.

    One heatmap per traced fact and the average by role in each drawn format, and one HTML page over all.
    `on_drawn` is called after each fact.
    """
    pictures = dict(saved_pictures(run))
    if not pictures:
        return []
    drawn = [name for name in look.formats if name != "html"]
    average = role_picture(run)
    paths = [
        save(role_heatmap(average, style=look.style), folder / f"average-by-role.{name}") for name in drawn
    ]
    for number, picture in pictures.items():
        paths += [
            save(heatmap(picture, style=look.style), folder / f"fact-{number:06d}.{name}") for name in drawn
        ]
        on_drawn()
    if "html" in look.formats:
        paths.append(write_page(folder / "facts.html", facts_page(list(pictures.values()), average)))
    return paths


def write_page(path: Path, text: str) -> Path:
    """Write an HTML page, whole or not at all; ResultsError when the disk refuses."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _settings(run: SavedRun) -> Mapping[str, Any]:
    names = ("samples", "seed", "state", "window", "direction", "metric")
    return {"model": run.record.model, **{name: run.record.arguments[name] for name in names}}


def _noise(text: str, std: float | None) -> str:
    return text if std is None or np.isnan(std) else f"{text} (std {std:.4g})"
