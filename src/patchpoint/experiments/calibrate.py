"""The noise that leaves a wanted share of the clean probability."""

import xarray as xr

from patchpoint.engine import Model
from patchpoint.errors import FactError, PromptError, UnknownName
from patchpoint.models.tokens import answer_ids
from patchpoint.tasks.facts import FactFile
from patchpoint.tasks.subject import SubjectPrompt
from patchpoint.tracing.calibration import Calibration
from patchpoint.tracing.calibration import calibrate as calibrated
from patchpoint.tracing.noise import embedding_std

from .condition import WORK, Work
from .fact_run import Outcome, usable_prompts, why_not
from .result import Result
from .settings import SETTINGS, FactSettings

N_FACTS, RATIO = 100, 0.3
KINDS = {"gaussian": "", "uniform": "u"}


def calibrate(
    model: Model,
    facts: FactFile,
    *,
    ratio: float = RATIO,
    kind: str = "gaussian",
    limit: int | None = N_FACTS,
    settings: FactSettings = SETTINGS,
    work: Work = WORK,
) -> Result:
    """The level of noise at which mean p_corrupt is `ratio` of mean p_clean, over `limit` facts.

    `kind`: gaussian or uniform. `findings["ratio"]` has every level tried, as a standard deviation (or bound) in
    units of the embedding; `answer` the level found, also in standard deviations of the file's subjects.
    Raises UnknownName, InvalidArgument when no level gives that ratio, FactError without facts.
    """
    if kind not in KINDS:
        raise UnknownName("kind of noise to calibrate", kind, KINDS)
    work.on_condition("facts that the model answers", limit or len(facts.facts))
    prompts, answers = _answered(model, facts, settings, limit, work)
    work.on_condition("levels", 1)
    found = calibrated(
        model,
        prompts,
        answers,
        ratio=ratio,
        kind=KINDS[kind],
        samples=settings.samples,
        seed=settings.seed,
        memory_gib=work.memory_gib,
    )
    return Result(
        "calibrate", {}, {"ratio": _curve(found)}, _answer(found, model, facts, settings, len(prompts))
    )


def _answered(
    model: Model, facts: FactFile, settings: FactSettings, limit: int | None, work: Work
) -> tuple[list[SubjectPrompt], list[int]]:
    prompts: list[SubjectPrompt] = []
    answers: list[int] = []
    for fact in facts.facts:
        if len(prompts) == limit:
            break
        try:
            if why_not(model, fact, settings) is not None:
                continue
            prompt = SubjectPrompt.from_text(model, fact.prompt, subject=fact.subject, bos=settings.bos)
            answers.append(answer_ids(model.tokenizer, fact.prompt, fact.attribute, prompt.bos).ids[0])
            prompts.append(prompt)
        except PromptError:
            continue
        work.on_outcome(Outcome(fact.number, "traced", None))
    if not prompts:
        raise FactError(
            f"the model answers no fact of {str(facts.path)!r}; give others, or --answer attribute"
        )
    return prompts, answers


def _curve(found: Calibration) -> xr.Dataset:
    return found.levels[["ratio", "low", "high"]].rename(ratio="mean")


def _answer(
    found: Calibration, model: Model, facts: FactFile, settings: FactSettings, n_facts: int
) -> dict[str, object]:
    unit = embedding_std(model, usable_prompts(model, facts, settings.bos))
    return {
        "model": model.name,
        "noise": found.noise,
        "level": found.level,
        "in standard deviations of the subjects' embeddings": found.std / unit,
        "wanted p_corrupt / p_clean": found.asked,
        "reached": found.reached,
        "low": found.low,
        "high": found.high,
        "facts": n_facts,
        "samples": settings.samples,
        "seed": settings.seed,
    }
