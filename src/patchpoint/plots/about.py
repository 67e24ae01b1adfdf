"""How the numbers of an experiment's figure were made, in the words of its caption."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from patchpoint.errors import InvalidArgument, UnknownName
from patchpoint.tracing.grid import Grid
from patchpoint.tracing.trace import SEVERED

from .labels import prose, shortened, visible
from .picture import ANSWER_LIMIT, DOTS, PROMPT_LIMIT
from .settings import METRICS, STATES, check_settings, how, patched

METHODS = {
    "exact": "every site run",
    "attribution": "estimated by a gradient (method attribution)",
    "screen": "the strongest sites run, the others estimated (method screen)",
}


@dataclass(frozen=True, kw_only=True)
class About:
    """One condition of an experiment on one model; also the settings that the other pictures read.

    `condition` names it in words, e.g. ``gaussian``; `facts` is the number of facts shown or averaged; `noise`
    is in words, e.g. ``s3 (std 0.094)``; `sever` names the outputs that stay as in the corrupted run, or is None.

    Raises UnknownName for a metric, state, direction, method or severed part, InvalidArgument for a number of
    facts or samples or a window below 1.
    """

    model: str
    condition: str
    facts: int
    noise: str
    samples: int
    seed: int
    metric: str = "prob"
    state: str = "resid"
    window: int = 10
    direction: str = "restore"
    method: str = "exact"
    sever: str | None = None
    done: str | None = None
    """What was done, in words, where no state is exchanged."""

    def __post_init__(self) -> None:
        check_settings(self)
        if self.method not in METHODS:
            raise UnknownName("method", self.method, METHODS)
        if self.sever is not None and self.sever not in SEVERED:
            raise UnknownName("severed part", self.sever, SEVERED)
        if not isinstance(self.facts, (int, np.integer)) or self.facts < 1:
            raise InvalidArgument(f"facts is {self.facts!r}, expected a whole number from 1")

    @property
    def intervention(self) -> str:
        """Model, condition and what is patched, e.g. ``gpt2, gaussian: residual stream restored at one token``."""
        if self.done is not None:
            return f"{prose(self.model)}, {prose(self.condition)}: {prose(self.done)}"
        severed = "" if self.sever is None else f"; {STATES[self.sever]}s after it as in the corrupted run"
        return f"{prose(self.model)}, {prose(self.condition)}: {patched(self)} at one token{severed}"

    @property
    def made(self) -> str:
        """Noise, samples, seed and method in words."""
        return how(self) if self.done is not None else f"{how(self)}; {METHODS[self.method]}"

    @property
    def caption(self) -> tuple[str, ...]:
        """Lines that say model, condition, number of facts, noise, samples, seed and method."""
        facts = "1 fact" if self.facts == 1 else f"{self.facts:,} facts, each with its own answer"
        return self.intervention, facts, self.made

    def measured(self, answer: str | None = None) -> str:
        """The metric in words, e.g. ``p(␣Paris)``; ``p(answer)`` over facts of several answers."""
        name = "answer" if answer is None else shortened(visible(answer), ANSWER_LIMIT)
        return METRICS[self.metric].format(name)


def fact_title(grid: Grid) -> str:
    """The fact of a grid, e.g. ``Fact 12: “The Eiffel Tower is in”, answer “␣Paris”``."""
    prompt, answer = (shortened(text, PROMPT_LIMIT) for text in (prose(grid.prompt), visible(grid.answer)))
    return f"Fact {grid.number}: “{prompt}”, answer “{answer}”"


def fact_caption(grid: Grid, about: About) -> tuple[str, str, str]:
    """Lines that say how one fact's grid was made, its two unpatched runs, and noise, samples, seed, method."""
    runs = (("clean", grid.p_clean), ("corrupted", grid.p_corrupt), ("total effect", grid.total_effect))
    said = ", ".join(f"{name} {'not known' if np.isnan(value) else f'{value:.4g}'}" for name, value in runs)
    return about.intervention, f"{about.measured(grid.answer)}: {said}", about.made


def captions(grids: Mapping[str, Grid], abouts: Mapping[str, About]) -> list[str]:
    """Captions of several named grids: lines that all share once, others under each name; then what dots mean."""
    said: list[str] = []
    for lines in zip(*(fact_caption(grids[name], abouts[name]) for name in grids), strict=True):
        own = [f"{prose(name)}: {line}" for name, line in zip(grids, lines, strict=True)]
        said += own if len(set(lines)) > 1 else lines[:1]
    return said + dots(grids.values())


def dots(grids: Iterable[Grid]) -> list[str]:
    """The line that says what dots mean, if any grid has them."""
    return [DOTS] if any((~grid.exact & ~np.isnan(grid.effect)).any() for grid in grids) else []
