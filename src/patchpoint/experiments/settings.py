"""How every fact of an experiment is traced."""

from dataclasses import dataclass

from patchpoint.errors import InvalidArgument, UnknownName
from patchpoint.tracing.trace import NOISE, SAMPLES, SEED, WINDOW, check_settings

ANSWERS = ("predicted", "attribute", "token")
SWAP = "swap"
"""Noise of that name: the subject exchanged for those of other facts."""
TWIN = "prefix"
"""Noise of that name: the prefix exchanged for the false one."""


@dataclass(frozen=True, kw_only=True)
class FactSettings:
    """How every fact of a file is traced; most fields are those of `trace`.

    `noise`: also `swap` (other facts' subjects of as many tokens, one per sample) and `prefix` (`prefix` exchanged
    for `false_prefix`, sentences put before every prompt). `own_seeds`: fact n draws from seed + n - 1.
    `answer`: `predicted` scores the model's own prediction and skips facts where that is not the attribute's
    first token in context; `attribute` scores that token whatever the model predicts; `token` the last token of
    prompt + prediction, as the file gives the latter.
    `limit`: stop after so many traced facts; skipped ones do not count.
    Raises UnknownName or InvalidArgument for settings that do not exist or do not fit together.
    """

    samples: int = SAMPLES
    noise: str = NOISE
    seed: int = SEED
    own_seeds: bool = False
    state: str = "resid"
    window: int = WINDOW
    direction: str = "restore"
    metric: str = "prob"
    sever: str | None = None
    fresh_noise: bool = False
    method: str = "exact"
    prefix: tuple[str, ...] = ()
    false_prefix: tuple[str, ...] = ()
    answer: str = "predicted"
    bos: bool | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.answer not in ANSWERS:
            raise UnknownName("answer for a fact file", self.answer, ANSWERS)
        if self.metric == "logit_diff":
            raise InvalidArgument(
                "facts have no incorrect answer, which metric logit_diff needs; use prob or logit"
            )
        if self.limit is not None and self.limit < 1:
            raise InvalidArgument(f"limit must be at least 1 fact, got {self.limit}")
        if (self.noise == TWIN) != bool(self.false_prefix) or (self.false_prefix and not self.prefix):
            raise InvalidArgument("noise prefix, a prefix and a false prefix belong together; give all three")
        check_settings(
            state=self.state,
            direction=self.direction,
            metric=self.metric,
            samples=self.samples,
            window=self.window,
            noise=NOISE if self.noise in (SWAP, TWIN) else self.noise,
            sever=self.sever,
            fresh_noise=self.fresh_noise,
            method=self.method,
        )


SETTINGS = FactSettings()
"""Those of an experiment that is given none."""
