"""The level of noise at which the corrupted run keeps a wanted share of the clean probability of the answers.

The noise of every level has the same directions (one draw per fact, times the level), so that the share is a
smooth function of the level. It is bracketed by doubling or halving, then bisected in the logarithm.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float

from patchpoint.engine import Model
from patchpoint.errors import InvalidArgument, UnknownName
from patchpoint.tasks.subject import SubjectPrompt

from .additive import Gaussian, Scaled, Uniform
from .bisection import Bisection, short
from .bootstrap import CONFIDENCE, RESAMPLES, interval_over_facts
from .corrupted import Facts
from .noise import embedding_std

Level = Scaled | Gaussian | Uniform
KINDS: dict[str, Callable[[float], Level]] = {"s": Scaled, "": Gaussian, "u": Uniform}
"""Noise that has a level, by the letter in front of it."""
REACH = 100.0
"""The bracket by default: noise with this many times, down to this part of, the embeddings' deviation."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Calibration:
    """The level found. `noise` is its text for `trace`, `std` its standard deviation in units of the embedding.

    `asked`, `reached`: p_corrupt / p_clean, the mean over facts of the one by that of the other; `low`, `high`: its
    bootstrap confidence interval over facts. `levels`, dims (level, fact), sorted by level: `ratio`, `low`, `high`
    and `p_corrupt` (mean over samples) at every level tried, and `p_clean` per fact.
    """

    level: float
    noise: str
    std: float
    asked: float
    reached: float
    low: float
    high: float
    levels: xr.Dataset


def calibrate(
    model: Model,
    prompts: Sequence[SubjectPrompt],
    answers: Sequence[int],
    *,
    ratio: float = 0.1,
    kind: str = "s",
    samples: int = 10,
    seed: int = 0,
    lowest: float | None = None,
    highest: float | None = None,
    tolerance: float = 0.02,
    memory_gib: float | None = None,
    on_level: Callable[[float, float], None] = lambda level, ratio: None,
) -> Calibration:
    """The level at which mean p_corrupt over facts / mean p_clean over facts is `ratio`, in (0, 1).

    `answers`: the token id to score of each prompt. `kind`: "s" (levels in standard deviations of these subjects'
    embeddings; what `trace` measures over other subjects differs, so give it `std` there), "" (a standard
    deviation) or "u" (uniform). Looks from `lowest` to `highest`, by default a hundredth of and a hundred times
    the embeddings' standard deviation, and stops within `tolerance` times `ratio`, or where levels of 4 digits
    come no nearer; where the ratio rises again with the level, which it may, it is passed at other levels too.
    `on_level` is called with each level tried and its ratio.
    Raises UnknownName or InvalidArgument, also where the ratio is not reached between these levels.
    """
    if kind not in KINDS:
        raise UnknownName("kind of noise to calibrate", kind, KINDS)
    facts = Facts(model, tuple(prompts), tuple(answers), samples, seed, memory_gib)
    unit = embedding_std(model, prompts) / facts.std_of(KINDS[kind](1.0))
    ends = (
        short(unit / REACH) if lowest is None else lowest,
        short(unit * REACH) if highest is None else highest,
    )
    search = Bisection(ratio, tolerance, *ends)
    p_clean = facts.clean()
    if not p_clean.mean() > 0:
        raise InvalidArgument(
            "the answers have probability 0 in the clean run; give answers that the model knows"
        )
    p_corrupt: dict[float, np.ndarray] = {}

    def ratio_at(level: float) -> float:
        p_corrupt[level] = facts.corrupted(KINDS[kind](level))
        reached = float(p_corrupt[level].mean() / p_clean.mean())
        on_level(level, reached)
        return reached

    level = search.nearest(ratio_at)
    table = _table(p_corrupt, p_clean, seed).assign_attrs(kind=kind, samples=samples, seed=seed)
    here, found = table.sel(level=level), KINDS[kind](level)
    return Calibration(
        level=level,
        noise=found.text,
        std=facts.std_of(found),
        asked=ratio,
        reached=float(here.ratio),
        low=float(here.low),
        high=float(here.high),
        levels=table,
    )


def _table(
    p_corrupt: Mapping[float, Float[np.ndarray, " fact"]], p_clean: Float[np.ndarray, " fact"], seed: int
) -> xr.Dataset:
    levels = sorted(p_corrupt)
    by_level = np.stack([p_corrupt[level] for level in levels])
    by_fact = np.broadcast_to(p_clean[:, None], by_level.T.shape)
    low, high = interval_over_facts(by_level.T, by_fact, seed=seed)
    return xr.Dataset(
        {
            "ratio": ("level", by_level.mean(1) / p_clean.mean()),
            "low": ("level", low),
            "high": ("level", high),
            "p_corrupt": (("level", "fact"), by_level),
            "p_clean": ("fact", p_clean),
        },
        coords={"level": levels, "fact": np.arange(len(p_clean))},
        attrs={"confidence": CONFIDENCE, "resamples": RESAMPLES},
    )
