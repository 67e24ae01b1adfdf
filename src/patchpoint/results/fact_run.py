"""Tracing a file of facts: one after another, each on disk before the next is begun."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from patchpoint.engine import Batch, Model
from patchpoint.errors import InvalidArgument, PromptError, UnknownName
from patchpoint.models.tokens import answer_ids, token_texts
from patchpoint.tasks.facts import Fact, FactFile
from patchpoint.tasks.prompts import SubjectPrompt
from patchpoint.tracing import Trace, trace
from patchpoint.tracing.noise import NoiseLevel
from patchpoint.tracing.trace import NOISE, SAMPLES, SEED, WINDOW

from .provenance import RunRecord, new_record
from .schema import grid_rows
from .store import Store

ANSWERS = ("predicted", "attribute")


@dataclass(frozen=True)
class FactSettings:
    """How every fact of a file is traced; the fields are those of `trace`.

    `answer`: `predicted` scores the model's own prediction and skips facts where that is not the attribute's
    first token in context; `attribute` scores that token whatever the model predicts.
    `limit`: stop after so many traced facts; skipped ones do not count.
    """

    samples: int = SAMPLES
    noise: str = NOISE
    seed: int = SEED
    state: str = "resid"
    window: int = WINDOW
    direction: str = "restore"
    metric: str = "prob"
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
        NoiseLevel.parse(self.noise)


@dataclass(frozen=True)
class Outcome:
    """What became of one row of the file; `reason` says why it was not traced."""

    number: int
    status: str
    reason: str | None


def record_of(
    model: Model, arguments: Mapping[str, object], seed: int, facts_sha256: str | None
) -> RunRecord:
    """What identifies a run of `trace` in `run.json`."""
    return new_record(
        "trace",
        arguments,
        seed=seed,
        model=model.name,
        model_fingerprint=model.fingerprint,
        tokenizer_fingerprint=model.tokenizer_fingerprint,
        facts_sha256=facts_sha256,
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
    )


def trace_facts(
    model: Model,
    facts: FactFile,
    store: Store,
    settings: FactSettings,
    *,
    memory_gib: float | None = None,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
) -> None:
    """Trace the facts that `store` does not hold yet, in the order of the file, and finish the store.

    Relative noise is measured over the subjects of the whole file, so that a fact's numbers depend on neither
    `limit` nor interruptions; every fact uses the same seed, so `trace` with `noise` set to the recorded
    `noise_std` gives the same numbers. Facts that cannot be traced are kept with their reason.
    """
    done = store.statuses()
    traced = sum(status == "traced" for status in done.values())
    for problem in facts.problems:
        if problem.number not in done:
            _keep(
                store, {"fact": problem.number, "status": "malformed", "reason": problem.reason}, on_outcome
            )
    level: str | None = None
    for fact in facts.facts:
        if settings.limit is not None and traced >= settings.limit:
            break
        if fact.number in done:
            continue
        level = level or _noise_of_file(model, facts.facts, settings)
        row, effects = _traced(model, fact, settings, level, memory_gib)
        _keep(store, row, on_outcome, effects)
        traced += row["status"] == "traced"
    store.finish()


def _keep(
    store: Store,
    row: dict[str, object],
    on_outcome: Callable[[Outcome], None],
    effects: list[dict[str, object]] | None = None,
) -> None:
    store.write(row, effects or [])
    reason = row.get("reason")
    on_outcome(Outcome(int(str(row["fact"])), str(row["status"]), None if reason is None else str(reason)))


def _noise_of_file(model: Model, facts: Iterable[Fact], settings: FactSettings) -> str:
    prompts = []
    for fact in facts:
        try:
            prompts.append(
                SubjectPrompt.from_text(model, fact.prompt, subject=fact.subject, bos=settings.bos)
            )
        except PromptError:
            continue
    return repr(NoiseLevel.parse(settings.noise).std_for(model, prompts))


def _traced(
    model: Model, fact: Fact, settings: FactSettings, noise: str, memory_gib: float | None
) -> tuple[dict[str, object], list[dict[str, object]]]:
    """A fact's row and effects: traced, or skipped with the reason."""
    asked: dict[str, object] = {
        "fact": fact.number,
        "prompt": fact.prompt,
        "subject": fact.subject,
        "attribute": fact.attribute,
    }
    try:
        reason = _why_not(model, fact, settings)
        if reason is not None:
            return {**asked, "status": "skipped", "reason": reason}, []
        found = trace(
            model,
            fact.prompt,
            subject=fact.subject,
            answer=fact.attribute,
            samples=settings.samples,
            noise=noise,
            seed=settings.seed,
            state=settings.state,
            window=settings.window,
            direction=settings.direction,
            metric=settings.metric,
            bos=settings.bos,
            memory_gib=memory_gib,
        )
    except PromptError as error:
        return {**asked, "status": "skipped", "reason": str(error)}, []
    return {**asked, **trace_row(found), "status": "traced"}, effect_rows(found)


def _why_not(model: Model, fact: Fact, settings: FactSettings) -> str | None:
    """Why a fact is not one that the model answers, or None."""
    if settings.answer == "attribute":
        return None
    prompt = SubjectPrompt.from_text(model, fact.prompt, subject=fact.subject, bos=settings.bos)
    wanted = answer_ids(model.tokenizer, fact.prompt, fact.attribute, prompt.bos).ids[0]
    probabilities = model.run(Batch((prompt.ids,)), keep=()).logits[0].float().softmax(-1)
    top = int(probabilities.argmax())
    if top == wanted:
        return None
    said, meant = token_texts(model.tokenizer, [top, wanted])
    return f"predicts {said!r} ({probabilities[top]:.4f}), not {meant!r} ({probabilities[wanted]:.4f})"


def trace_row(found: Trace) -> dict[str, object]:
    """The columns of the facts table that a trace fills."""
    return {
        "answer": found.answer,
        "answer_id": found.answer_id,
        "tokens": list(found.tokens),
        "token_ids": list(found.prompt.ids),
        "subject_start": found.subject_span[0],
        "subject_stop": found.subject_span[1],
        "p_clean": found.p_clean,
        "p_corrupt": found.p_corrupt,
        "noise_std": found.noise_std,
    }


def effect_rows(found: Trace) -> list[dict[str, object]]:
    """The rows of the effects table of a trace."""
    return grid_rows(found.effect, found.effect_se, found.p_restored)
