"""Causal tracing of one fact: which hidden state, restored into a corrupted run, brings the answer back.

Three runs, as in Meng et al. 2022, section 2: clean; corrupted (the subject's embeddings disturbed); and corrupted
with one state restored to its clean value, the last for every token and layer by one sweep.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import xarray as xr

from patchpoint.engine import Batch, Model, Run
from patchpoint.engine.metrics import metric_of
from patchpoint.engine.sweep import Progress, base_values
from patchpoint.errors import InvalidArgument, UnknownName
from patchpoint.models.tokens import answer_ids, common_leading, token_texts
from patchpoint.tasks.subject import SubjectPrompt

from .attribution import attributed
from .corruption import Corruption, Corruptor, NoiseLike, corruptor_of
from .exchange import STATES, Estimate, Exchange, measured
from .fresh import measured_apart, sites_together
from .result import Trace
from .screen import screened

DIRECTIONS = ("restore", "corrupt")
METHODS: dict[str, Callable[[Exchange], Estimate]] = {
    "exact": measured,
    "attribution": attributed,
    "screen": screened,
}
"""How a heatmap is found: every site run, a first-order estimate, or the best sites of an estimate run."""
SEVERED = ("mlp", "attn")
NOISE, SAMPLES, SEED, WINDOW = "s3", 10, 0, 10


def trace(  # noqa: PLR0913 (the public contract: one function for one experiment)
    model: Model,
    prompt: str,
    *,
    subject: str,
    answer: str | int | None = None,
    incorrect: str | None = None,
    samples: int = SAMPLES,
    noise: NoiseLike = NOISE,
    seed: int = SEED,
    state: str = "resid",
    window: int = WINDOW,
    direction: str = "restore",
    metric: str = "prob",
    sever: str | None = None,
    fresh_noise: bool = False,
    method: str = "exact",
    bos: bool | None = None,
    memory_gib: float | None = None,
    progress: Progress | None = None,
) -> Trace:
    """Causal trace of one fact over all tokens and layers. Meng et al. 2022, section 2.

    `answer` is the text whose first token is scored, or a token id (default: the model's own prediction);
    `incorrect` the other answer of `logit_diff`. `noise` says how the subject's embeddings are disturbed, the same
    way for every site: `sX`, a standard deviation, `uX`, `m`, `tK`, `replace:` before any of these, `shuffle`
    (see `tracing.corruption`), an array [samples, subject tokens, d_model] that is added, or a `Twin`.
    `fresh_noise` draws anew for every site. `state`: `resid` (after a block), `mlp` or `attn` (outputs over
    `window` layers centred at each layer). `direction`: `restore` puts clean states into the corrupted run,
    `corrupt` corrupted states into the clean run. `sever` (`mlp` or `attn`): behind a restored state those
    outputs of its token keep their corrupted values. `method`: `exact`, or the estimates `attribution` and
    `screen` (see METHODS). `progress` is called with work done and to do.
    Raises PromptError, InvalidArgument or UnknownName.
    """
    check_settings(
        state=state,
        direction=direction,
        metric=metric,
        samples=samples,
        window=window,
        noise=noise,
        sever=sever,
        fresh_noise=fresh_noise,
        method=method,
    )
    found = SubjectPrompt.from_text(model, prompt, subject=subject, bos=bos)
    right, wrong, found = _answers(model, found, answer, incorrect, metric)
    keep = tuple({STATES[name] for name in (state, sever) if name not in (None, "resid")})
    plain = model.run(Batch((found.ids,)), keep=keep, memory_gib=memory_gib)
    correct_id = int(plain.logits[0].argmax()) if right is None else right
    clean = plain.scored((correct_id,), None if wrong is None else (wrong,))

    asked = Exchange(clean, clean, 0, state, window, metric, sever, memory_gib, progress)
    disturb = _Disturbance(asked, direction, keep, found, corruptor_of(noise), seed)
    values = _with_fresh_noise(disturb, samples) if fresh_noise else _in_common(disturb, samples, method)
    return Trace(
        prompt=found,
        answer=token_texts(model.tokenizer, [correct_id])[0],
        answer_id=correct_id,
        samples=values.samples,
        base_samples=values.base,
        corrupt_samples=values.corrupt,
        exact=values.exact,
        p_clean=float(base_values(clean, metric)[0]),
        noise_std=values.corruption.std,
        settings={
            "model": model.name,
            "noise": values.corruption.text,
            "samples": values.samples.sizes["sample"],
            "seed": seed,
            "state": state,
            "window": 1 if state == "resid" else window,
            "direction": direction,
            "metric": metric,
            "sever": sever,
            "fresh_noise": fresh_noise,
            "method": method,
        },
    )


@dataclass(frozen=True, eq=False)
class _Disturbance:
    """A clean run that is to be disturbed (`asked.source`), by what, and which way states are exchanged."""

    asked: Exchange
    direction: str
    keep: tuple[str, ...]
    prompt: SubjectPrompt
    corruptor: Corruptor
    seed: int

    def drawn(self, samples: int) -> Corruption:
        """That many samples of the disturbance."""
        return self.corruptor.drawn(self.asked.source.model, self.prompt, samples, self.seed)

    def by(self, corruption: Corruption) -> tuple[Exchange, Run]:
        """What is put where under these samples, and the corrupted run."""
        clean, memory_gib = self.asked.source, self.asked.memory_gib
        batch = clean.batch.repeat(len(corruption.values))
        corrupt = clean.model.run(batch, edits=[corruption.edit], keep=self.keep, memory_gib=memory_gib)
        base, source = corrupt, clean
        if self.direction == "corrupt":
            base, source = clean.model.run(batch, keep=(), memory_gib=memory_gib), corrupt
        return replace(self.asked, base=base, source=source, first=min(corruption.positions)), corrupt


@dataclass(frozen=True, eq=False)
class _Values:
    """The fields of `Trace` that a measurement fills, and what the prompt was disturbed by."""

    samples: xr.DataArray
    base: xr.DataArray
    corrupt: xr.DataArray
    exact: xr.DataArray
    corruption: Corruption


def _in_common(disturb: _Disturbance, samples: int, method: str) -> _Values:
    """The same noise for every site."""
    corruption = disturb.drawn(samples)
    asked, corrupt = disturb.by(corruption)
    estimate = METHODS[method](asked)
    base, corrupt_values = (
        xr.DataArray(base_values(run, asked.metric).numpy(), dims="sample") for run in (asked.base, corrupt)
    )
    return _Values(estimate.samples, base, corrupt_values, estimate.exact, corruption)


def _with_fresh_noise(disturb: _Disturbance, samples: int) -> _Values:
    """Noise of its own for every site."""
    first = min(disturb.drawn(1).positions)
    asked = replace(disturb.asked, first=first)
    sites = asked.sites()
    corruption = disturb.drawn(samples * len(sites))
    if len(corruption.values) != samples * len(sites):
        raise InvalidArgument(
            f"fresh noise needs a disturbance that can be drawn again for every site; {corruption.text} cannot"
        )
    together = sites_together(asked.base.model, asked.n_tokens, samples, asked.memory_gib)
    apart = measured_apart(
        sites,
        samples,
        lambda rows: disturb.by(replace(corruption, values=corruption.values[rows])),
        together,
        asked.progress,
    )
    exact = xr.ones_like(apart.samples.isel(sample=0, drop=True), dtype=bool)
    return _Values(apart.samples, apart.base, apart.corrupt, exact, corruption)


def _answers(
    model: Model, prompt: SubjectPrompt, answer: str | int | None, incorrect: str | None, metric: str
) -> tuple[int | None, int | None, SubjectPrompt]:
    """Given answers' tokens in context, and the prompt with the tokens that both share moved to its end."""
    if metric == "logit_diff" and incorrect is None:
        raise InvalidArgument("metric logit_diff compares two answers; give incorrect= as well")
    if answer is None:
        if incorrect is not None:
            raise InvalidArgument("an incorrect answer needs the correct one beside it; give answer= as well")
        return None, None, prompt
    if isinstance(answer, int):
        if isinstance(answer, bool) or not 0 <= answer < model.d_vocab:
            raise InvalidArgument(
                f"answer {answer!r} is no token id; the model has 0 to {model.d_vocab - 1}, or give the answer's text"
            )
        if incorrect is not None:
            raise InvalidArgument("an answer given as a token id stands alone; give both answers as text")
        return answer, None, prompt
    right = answer_ids(model.tokenizer, prompt.text, answer, prompt.bos).ids
    if incorrect is None:
        return right[0], None, prompt
    wrong = answer_ids(model.tokenizer, prompt.text, incorrect, prompt.bos).ids
    shared = common_leading(right, wrong)
    return right[len(shared)], wrong[len(shared)], prompt.continued(model, shared)


def check_settings(
    *,
    state: str,
    direction: str,
    metric: str,
    samples: int,
    window: int,
    noise: NoiseLike,
    sever: str | None = None,
    fresh_noise: bool = False,
    method: str = "exact",
) -> None:
    """Refuse, before any work, settings that `trace` does not know: UnknownName or InvalidArgument."""
    known = {"state": (state, STATES), "direction": (direction, DIRECTIONS), "method": (method, METHODS)}
    for kind, (name, names) in known.items():
        if name not in names:
            raise UnknownName(kind, name, names)
    metric_of(metric)
    if samples < 1:
        raise InvalidArgument(f"samples must be at least 1, got {samples}")
    if window < 1:
        raise InvalidArgument(f"window must be at least 1 layer, got {window}")
    corruptor_of(noise)
    if sever is not None and sever not in SEVERED:
        raise UnknownName("severed output", sever, SEVERED)
    if sever is not None and (state, direction) != ("resid", "restore"):
        raise InvalidArgument(
            f"sever={sever!r} is for state resid in direction restore, got state {state} in direction {direction}"
        )
    if method != "exact" and (sever is not None or fresh_noise):
        raise InvalidArgument(
            f"method {method} is for common noise and no severed outputs; use method exact with these"
        )
