"""What a causal trace of one prompt found."""

from dataclasses import dataclass
from typing import Any

import xarray as xr

from patchpoint.tasks.subject import SubjectPrompt


@dataclass(frozen=True, eq=False)
class Trace:
    """A causal trace of one prompt. Values are of the metric, a probability in [0, 1] unless said otherwise.

    `samples`, dims (token, layer, sample): the metric with the state at (token, layer) exchanged, NaN where a
    sample was not run; `base_samples` that of the run which is changed, `corrupt_samples` the corrupted run's,
    both of dims (sample), or (token, layer, sample) with fresh noise; `p_clean` and `p_corrupt` its values
    without any exchange, the latter a mean. `exact`, dims (token, layer): False where the value is an estimate,
    or measured in some of the samples only.
    """

    prompt: SubjectPrompt
    answer: str
    answer_id: int
    samples: xr.DataArray
    base_samples: xr.DataArray
    corrupt_samples: xr.DataArray
    exact: xr.DataArray
    p_clean: float
    noise_std: float | None
    """Standard deviation of the noise; None where none describes it."""
    settings: dict[str, str | int | bool | None]

    @property
    def tokens(self) -> tuple[str, ...]:
        """Text of each token."""
        return self.prompt.tokens

    @property
    def starred_tokens(self) -> tuple[str, ...]:
        """Text of each token, a `*` behind those of the subject."""
        start, stop = self.subject_span
        return tuple(text + "*" if start <= i < stop else text for i, text in enumerate(self.tokens))

    @property
    def subject_span(self) -> tuple[int, int]:
        """Half-open span of the subject's tokens."""
        return self.prompt.subject_span

    @property
    def p_corrupt(self) -> float:
        """Mean of the corrupted run's metric over samples, and over sites where each has its own."""
        return float(self.corrupt_samples.mean())

    @property
    def p_restored(self) -> xr.DataArray:
        """Mean over samples with the state exchanged, dims (token, layer)."""
        return self.samples.mean("sample")

    @property
    def effect(self) -> xr.DataArray:
        """Indirect effect, dims (token, layer): p_restored - p_corrupt, or - p_clean in direction `corrupt`."""
        return self._effects.mean("sample")

    @property
    def effect_se(self) -> xr.DataArray:
        """Standard error of the effect over the samples run, dims (token, layer); NaN for a single one."""
        n = self.samples.count("sample")
        return (self._effects.std("sample", ddof=1) / n**0.5).where(n > 1)

    @property
    def total_effect(self) -> float:
        """p_clean - p_corrupt."""
        return self.p_clean - self.p_corrupt

    def to_dict(self) -> dict[str, Any]:
        """Plain data of everything measured, for JSON; arrays as nested lists (token, layer)."""
        return {
            "prompt": self.prompt.text,
            "subject": self.prompt.subject,
            "bos": self.prompt.bos,
            "tokens": list(self.tokens),
            "token_ids": list(self.prompt.ids),
            "subject_span": list(self.subject_span),
            "answer": self.answer,
            "answer_id": self.answer_id,
            "p_clean": self.p_clean,
            "p_corrupt": self.p_corrupt,
            "noise_std": self.noise_std,
            **self.settings,
            "effect": self.effect.values.tolist(),
            "effect_se": self.effect_se.values.tolist(),
            "p_restored": self.p_restored.values.tolist(),
            "exact": self.exact.values.tolist(),
        }

    @property
    def _effects(self) -> xr.DataArray:
        # In direction `corrupt` the base is the clean run, once per sample: where an exchange does nothing it
        # equals these to the last bit, p_clean, of a batch of another size, only to rounding.
        return self.samples - self.base_samples
