"""One fact's heatmap, wherever it came from: what averages, figures and tables are made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float

from patchpoint.errors import InvalidArgument, UnknownName

from .result import Trace
from .trace import DIRECTIONS


@dataclass(frozen=True, eq=False, kw_only=True)
class Grid:
    """One fact's heatmap under one condition, from a live trace or a saved run.

    `number` is the row of the fact file, from 1; `tokens` are texts without stars; `subject_span` and the
    further named `spans` (such as the facts of a prefix) are half-open positions. `p_clean`, `p_corrupt` and
    the arrays are in the run's metric; the two are NaN where a foreign file does not give them. `effect` is
    p_restored - p_corrupt in direction `restore`, p_corrupted_state - p_clean in direction `corrupt`;
    `effect_se` its standard error over noise samples, NaN for one sample; `exact` is False where the value is
    an estimate. Raises InvalidArgument when the parts do not fit each other, UnknownName for a direction.
    """

    number: int
    prompt: str
    subject: str
    answer: str
    tokens: tuple[str, ...]
    subject_span: tuple[int, int]
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    p_clean: float
    p_corrupt: float
    direction: str
    effect: Float[np.ndarray, "token layer"]
    effect_se: Float[np.ndarray, "token layer"]
    exact: Bool[np.ndarray, "token layer"]

    def __post_init__(self) -> None:
        if self.direction not in DIRECTIONS:
            raise UnknownName("direction", self.direction, DIRECTIONS)
        n_tokens = len(self.tokens)
        shapes = {name: getattr(self, name).shape for name in ("effect", "effect_se", "exact")}
        if len(set(shapes.values())) > 1 or self.effect.ndim != 2 or self.effect.shape[0] != n_tokens:
            said = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise InvalidArgument(f"fact {self.number} has {said}; expected ({n_tokens} tokens, layers) each")
        for name, (start, stop) in {"subject": self.subject_span, **self.spans}.items():
            if not 0 <= start <= stop <= n_tokens:
                raise InvalidArgument(
                    f"fact {self.number}: the span {start}:{stop} of {name!r} is not within its "
                    f"{n_tokens} tokens; give half-open positions from 0"
                )

    @property
    def total_effect(self) -> float:
        """p_clean - p_corrupt."""
        return self.p_clean - self.p_corrupt


def grid_of(trace: Trace, number: int = 1) -> Grid:
    """The heatmap of a live trace as fact `number`."""
    return Grid(
        number=number,
        prompt=trace.prompt.text,
        subject=trace.prompt.subject,
        answer=trace.answer,
        tokens=trace.tokens,
        subject_span=trace.subject_span,
        p_clean=trace.p_clean,
        p_corrupt=trace.p_corrupt,
        direction=str(trace.settings["direction"]),
        effect=trace.effect.values,
        effect_se=trace.effect_se.values,
        exact=trace.exact.values,
    )
