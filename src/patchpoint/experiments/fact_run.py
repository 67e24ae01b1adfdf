"""Tracing a file of facts: one after another, each on disk before the next is begun."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from patchpoint.engine import Batch, Model
from patchpoint.errors import InvalidArgument, PromptError
from patchpoint.models.tokens import answer_ids, encode, token_texts
from patchpoint.results import RunRecord, Store, new_record
from patchpoint.results.schema import grid_rows
from patchpoint.tasks.facts import Fact, FactFile
from patchpoint.tasks.subject import SubjectPrompt
from patchpoint.tracing import Trace, trace
from patchpoint.tracing.corruption import Corruptor, NoiseLike, corruptor_of

from .settings import SWAP, TWIN, FactSettings
from .twins import behind, prefix_spans, prefix_twin, swapped

TRACED = ("samples", "state", "window", "direction", "metric", "sever", "fresh_noise", "method", "bos")
"""Settings that `trace` takes as they are."""


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
    numbers: Sequence[int] | None = None,
    population: FactFile | None = None,
    memory_gib: float | None = None,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
) -> None:
    """Trace the facts that `store` does not hold yet, in the order of the file, and finish the store.

    `numbers`: these facts only, in this order. Relative noise is measured over the subjects of the whole file, or
    of `population`, so that a fact's numbers depend on neither `limit` nor interruptions. Facts that cannot be
    traced are kept with their reason.
    """
    done = store.statuses()
    traced = sum(status == "traced" for status in done.values())
    for problem in facts.problems if numbers is None else ():
        if problem.number not in done:
            row = {"fact": problem.number, "status": "malformed", "reason": problem.reason}
            _keep(store, row, on_outcome)
    corruptor: Corruptor | None = None
    for fact in chosen(facts, numbers):
        if settings.limit is not None and traced >= settings.limit:
            break
        if fact.number in done:
            continue
        corruptor = corruptor or _fitted(model, population or facts, settings)
        row, effects = _traced(model, fact, facts, settings, corruptor, memory_gib)
        _keep(store, row, on_outcome, effects)
        traced += row["status"] == "traced"
    store.finish()


def chosen(facts: FactFile, numbers: Sequence[int] | None) -> Sequence[Fact]:
    """The facts of these numbers in this order, or all. Raises InvalidArgument for one that is not usable."""
    if numbers is None:
        return facts.facts
    by_number = {fact.number: fact for fact in facts.facts}
    if missing := [number for number in numbers if number not in by_number]:
        raise InvalidArgument(f"{str(facts.path)!r} has no usable fact {missing[0]}; give rows that it has")
    return [by_number[number] for number in numbers]


def why_not(model: Model, fact: Fact, settings: FactSettings) -> str | None:
    """Why a fact is not one that the model answers, or None. Raises PromptError for what cannot be asked."""
    if settings.answer != "predicted":
        return None
    text = behind(settings.prefix, fact.prompt)
    prompt = SubjectPrompt.from_text(model, text, subject=fact.subject, bos=settings.bos)
    wanted = answer_ids(model.tokenizer, text, fact.attribute, prompt.bos).ids[0]
    probabilities = model.run(Batch((prompt.ids,)), keep=()).logits[0].float().softmax(-1)
    top = int(probabilities.argmax())
    if top == wanted:
        return None
    said, meant = token_texts(model.tokenizer, [top, wanted])
    return f"predicts {said!r} ({probabilities[top]:.4f}), not {meant!r} ({probabilities[wanted]:.4f})"


def answers(model: Model, fact: Fact, settings: FactSettings) -> bool:
    """Whether a fact is one that these settings do not skip for its answer, or for what cannot be asked."""
    try:
        return why_not(model, fact, settings) is None
    except PromptError:
        return False


def _keep(
    store: Store,
    row: dict[str, object],
    on_outcome: Callable[[Outcome], None],
    effects: list[dict[str, object]] | None = None,
) -> None:
    store.write(row, effects or [])
    reason = row.get("reason")
    on_outcome(Outcome(int(str(row["fact"])), str(row["status"]), None if reason is None else str(reason)))


def _fitted(model: Model, facts: FactFile, settings: FactSettings) -> Corruptor:
    """The noise, measured over all prompts of the file where it is relative to them."""
    corruptor = corruptor_of("0" if settings.noise in (SWAP, TWIN) else settings.noise)
    return corruptor.fitted(model, usable_prompts(model, facts, settings.bos))


def usable_prompts(model: Model, facts: FactFile, bos: bool | None) -> list[SubjectPrompt]:
    """The prompts of all facts of a file that can be tokenised with their subject."""
    prompts = []
    for fact in facts.facts:
        try:
            prompts.append(SubjectPrompt.from_text(model, fact.prompt, subject=fact.subject, bos=bos))
        except PromptError:
            continue
    return prompts


def _disturbance(
    model: Model, fact: Fact, facts: FactFile, settings: FactSettings, corruptor: Corruptor
) -> NoiseLike:
    if settings.noise == TWIN:
        return prefix_twin(fact, settings.prefix, settings.false_prefix)
    if settings.noise == SWAP:
        return swapped(model, fact, facts.facts, settings.samples, settings.seed, settings.bos)
    return corruptor


def _answer(model: Model, fact: Fact, text: str, settings: FactSettings) -> str | int:
    """The answer's text, or for `token` the id that comes last in prompt + prediction."""
    if settings.answer != "token":
        return fact.attribute
    if not fact.prediction:
        raise PromptError("the file gives no prediction for this fact, which --answer token scores")
    return encode(model.tokenizer, text + fact.prediction, settings.bos).ids[-1]


def _traced(
    model: Model,
    fact: Fact,
    facts: FactFile,
    settings: FactSettings,
    corruptor: Corruptor,
    memory_gib: float | None,
) -> tuple[dict[str, object], list[dict[str, object]]]:
    """A fact's row and effects: traced, or skipped with the reason."""
    text = behind(settings.prefix, fact.prompt)
    asked: dict[str, object] = {
        "fact": fact.number,
        "prompt": text,
        "subject": fact.subject,
        "attribute": fact.attribute,
    }
    try:
        reason = why_not(model, fact, settings)
        if reason is not None:
            return {**asked, "status": "skipped", "reason": reason}, []
        found = trace(
            model,
            text,
            subject=fact.subject,
            answer=_answer(model, fact, text, settings),
            noise=_disturbance(model, fact, facts, settings, corruptor),
            seed=settings.seed + (fact.number - 1 if settings.own_seeds else 0),
            memory_gib=memory_gib,
            **{name: getattr(settings, name) for name in TRACED},
        )
        spans = prefix_spans(model, text, settings.prefix, settings.bos)
    except PromptError as error:
        return {**asked, "status": "skipped", "reason": str(error)}, []
    named = [{"name": name, "start": start, "stop": stop} for name, (start, stop) in spans.items()]
    return {**asked, **trace_row(found), "spans": named, "status": "traced"}, effect_rows(found)


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
    return grid_rows(found.effect, found.effect_se, found.p_restored, found.exact)
