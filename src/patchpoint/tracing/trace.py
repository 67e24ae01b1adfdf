"""Causal tracing of one fact: which hidden state, restored into a corrupted run, brings the answer back.

Three runs, as in Meng et al. 2022, section 2: clean; corrupted (noise on the subject's embeddings); and corrupted
with one state restored to its clean value, the last for every token and layer by one sweep.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from patchpoint.engine import Batch, Edit, Model, Run, Site, Variant, sweep
from patchpoint.engine.metrics import metric_of
from patchpoint.engine.sweep import Progress, base_values
from patchpoint.errors import InvalidArgument, UnknownName
from patchpoint.models.tokens import answer_ids, common_leading, token_texts
from patchpoint.tasks.prompts import SubjectPrompt

from .noise import NoiseLevel, NoiseLike, corrupted_by

STATES = {"resid": "resid_post", "mlp": "mlp_out", "attn": "attn_out"}
"""What is restored, as the component whose value it is; MLP and attention outputs over a window of layers."""
DIRECTIONS = ("restore", "corrupt")
NOISE, SAMPLES, SEED, WINDOW = "s3", 10, 0, 10


@dataclass(frozen=True, eq=False)
class Trace:
    """A causal trace of one prompt. Values are of the metric, a probability in [0, 1] unless said otherwise.

    `samples`, dims (token, layer, sample): the metric with the state at (token, layer) exchanged; `p_corrupt`
    and `p_clean` are its values without any exchange, the former the mean over `p_corrupt_samples`.
    """

    prompt: SubjectPrompt
    answer: str
    answer_id: int
    samples: xr.DataArray
    p_clean: float
    p_corrupt_samples: tuple[float, ...]
    noise_std: float | None
    """Standard deviation of the noise; None for given noise."""
    settings: dict[str, str | int]

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
        """Mean over samples of the corrupted run's metric."""
        return float(np.mean(self.p_corrupt_samples))

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
        """Standard error of the effect over the noise samples, dims (token, layer); NaN for a single sample."""
        n = self.samples.sizes["sample"]
        return self._effects.std("sample", ddof=1) / n**0.5 if n > 1 else self.effect * np.nan

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
        }

    @property
    def _effects(self) -> xr.DataArray:
        if self.settings["direction"] == "corrupt":
            return self.samples - self.p_clean
        return self.samples - xr.DataArray(np.array(self.p_corrupt_samples), dims="sample")


def trace(  # noqa: PLR0913 (the public contract: one function for one experiment)
    model: Model,
    prompt: str,
    *,
    subject: str,
    answer: str | None = None,
    incorrect: str | None = None,
    samples: int = SAMPLES,
    noise: NoiseLike = NOISE,
    seed: int = SEED,
    state: str = "resid",
    window: int = WINDOW,
    direction: str = "restore",
    metric: str = "prob",
    bos: bool | None = None,
    memory_gib: float | None = None,
    progress: Progress | None = None,
) -> Trace:
    """Causal trace of one fact over all tokens and layers. Meng et al. 2022, section 2.

    `answer` is the text whose first token is scored (default: the model's own prediction); `incorrect` the
    other answer of `logit_diff`. `noise` is `sX`, a standard deviation, or an array [samples, subject tokens,
    d_model] added to the embeddings; the same for every site. `state`: `resid` (after a block), `mlp` or
    `attn` (outputs over `window` layers centred at each layer). `direction`: `restore` puts clean states into
    the corrupted run, `corrupt` corrupted states into the clean run. `progress` is called with the sweep's
    floating-point operations done and to do.
    Raises PromptError, InvalidArgument or UnknownName.
    """
    check_settings(
        state=state, direction=direction, metric=metric, samples=samples, window=window, noise=noise
    )
    found = SubjectPrompt.from_text(model, prompt, subject=subject, bos=bos)
    corruption = corrupted_by(model, found, noise, samples, seed)
    right, wrong, found = _answers(model, found, answer, incorrect, metric)

    keep = () if state == "resid" else (STATES[state],)
    plain = model.run(Batch((found.ids,)), keep=keep, memory_gib=memory_gib)
    correct_id = int(plain.logits[0].argmax()) if right is None else right
    clean = plain.scored((correct_id,), None if wrong is None else (wrong,))
    batch = clean.batch.repeat(len(corruption.added))
    noised = Edit(Site(0, "embed", tuple(range(*found.subject_span))), "add", corruption.added)
    corrupt = model.run(batch, edits=[noised], keep=keep, memory_gib=memory_gib)
    if direction == "restore":
        base, source = corrupt, clean
    else:
        base, source = model.run(batch, keep=(), memory_gib=memory_gib), corrupt
    first = found.subject_span[0]
    values = _exchange_each_state(base, source, first, state, window, metric, memory_gib, progress)
    return Trace(
        prompt=found,
        answer=token_texts(model.tokenizer, [correct_id])[0],
        answer_id=correct_id,
        samples=values,
        p_clean=float(base_values(clean, metric)[0]),
        p_corrupt_samples=tuple(base_values(corrupt, metric).tolist()),
        noise_std=corruption.std,
        settings={
            "model": model.name,
            "noise": corruption.text,
            "samples": len(corruption.added),
            "seed": seed,
            "state": state,
            "window": 1 if state == "resid" else window,
            "direction": direction,
            "metric": metric,
        },
    )


def _exchange_each_state(
    base: Run,
    source: Run,
    first: int,
    state: str,
    window: int,
    metric: str,
    memory_gib: float | None,
    progress: Progress | None,
) -> xr.DataArray:
    """The metric with each (token, layer) state of `base` replaced by that of `source`.

    Tokens before the first corrupted one are equal in both runs, so they keep the base's value.
    """
    n_tokens, n_layers = base.packing.lengths[0], base.model.n_layers
    variants = [
        Variant(_exchange(source, token, _layers(state, layer, window, n_layers), STATES[state]))
        for token in range(first, n_tokens)
        for layer in range(n_layers)
    ]
    swept = sweep(base, variants, metric, memory_gib=memory_gib, progress=progress).values
    values = swept.reshape(n_tokens - first, n_layers, -1)
    if first:
        untouched = np.broadcast_to(base_values(base, metric).numpy(), (first, *values.shape[1:]))
        values = np.concatenate([untouched, values])
    return xr.DataArray(
        values,
        dims=("token", "layer", "sample"),
        coords={"token": np.arange(n_tokens), "layer": np.arange(n_layers)},
    )


def _exchange(source: Run, token: int, layers: range, component: str) -> tuple[Edit, ...]:
    return tuple(Edit(Site(layer, component, (token,)), "replace", source) for layer in layers)


def _layers(state: str, layer: int, window: int, n_layers: int) -> range:
    """The layers exchanged together: one for `resid`, an interval centred at `layer` for `mlp` and `attn`."""
    if state == "resid":
        return range(layer, layer + 1)
    return range(max(0, layer - window // 2), min(n_layers, layer - window // 2 + window))


def _answers(
    model: Model, prompt: SubjectPrompt, answer: str | None, incorrect: str | None, metric: str
) -> tuple[int | None, int | None, SubjectPrompt]:
    """Given answers' tokens in context, and the prompt with the tokens that both share moved to its end."""
    if metric == "logit_diff" and incorrect is None:
        raise InvalidArgument("metric logit_diff compares two answers; give incorrect= as well")
    if answer is None:
        if incorrect is not None:
            raise InvalidArgument("an incorrect answer needs the correct one beside it; give answer= as well")
        return None, None, prompt
    right = answer_ids(model.tokenizer, prompt.text, answer, prompt.bos).ids
    if incorrect is None:
        return right[0], None, prompt
    wrong = answer_ids(model.tokenizer, prompt.text, incorrect, prompt.bos).ids
    shared = common_leading(right, wrong)
    return right[len(shared)], wrong[len(shared)], prompt.continued(model, shared)


def check_settings(
    *, state: str, direction: str, metric: str, samples: int, window: int, noise: NoiseLike
) -> None:
    """Refuse, before any work, settings that `trace` does not know: UnknownName or InvalidArgument."""
    if state not in STATES:
        raise UnknownName("state", state, STATES)
    if direction not in DIRECTIONS:
        raise UnknownName("direction", direction, DIRECTIONS)
    metric_of(metric)
    if samples < 1:
        raise InvalidArgument(f"samples must be at least 1, got {samples}")
    if window < 1:
        raise InvalidArgument(f"window must be at least 1 layer, got {window}")
    if not isinstance(noise, np.ndarray | Tensor):
        NoiseLevel.parse(noise)
