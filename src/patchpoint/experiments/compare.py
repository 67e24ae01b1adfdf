"""The same facts in different groups: by length, and by model."""

from dataclasses import replace
from itertools import islice

from patchpoint.engine import Model
from patchpoint.errors import InvalidArgument
from patchpoint.models.tokens import encode
from patchpoint.tasks.facts import FactFile

from .basic import N_FACTS
from .condition import WORK, Condition, Work, measure
from .fact_run import answers
from .findings import magnitude, wrong_sign
from .result import Result
from .settings import SETTINGS, FactSettings


def short_long(
    model: Model,
    facts: FactFile,
    *,
    limit: int | None = N_FACTS,
    settings: FactSettings = SETTINGS,
    work: Work = WORK,
) -> Result:
    """The facts whose prompts have the fewest and the most tokens, `limit` of each."""
    lengths = {}
    for fact in facts.facts:
        lengths[fact.number] = len(encode(model.tokenizer, fact.prompt, settings.bos).ids)
    order = {
        "shortest": sorted(lengths, key=lambda number: (lengths[number], number)),
        "longest": sorted(lengths, key=lambda number: (-lengths[number], number)),
    }
    conditions = [
        Condition(name, model, replace(settings, limit=limit), tuple(numbers))
        for name, numbers in order.items()
    ]
    return Result("short-long", measure(conditions, facts, work))


def compare_models(
    model: Model,
    facts: FactFile,
    *,
    against: Model,
    limit: int | None = N_FACTS,
    settings: FactSettings = SETTINGS,
    work: Work = WORK,
) -> Result:
    """The same facts, those that both models answer, traced in each.

    Raises InvalidArgument when the two are one, or answer no fact in common.
    """
    names = (_name(model), _name(against))
    if names[0] == names[1]:
        raise InvalidArgument(f"both models are {names[0]}; give another one to compare with")
    settings = replace(settings, limit=limit)
    answered = (f for f in facts.facts if all(answers(m, f, settings) for m in (model, against)))
    numbers = tuple(fact.number for fact in islice(answered, settings.limit))
    if not numbers:
        raise InvalidArgument(
            f"{names[0]} and {names[1]} answer no fact in common; give other facts, or --answer attribute"
        )
    each = zip(names, (model, against), strict=True)
    conditions = [Condition(name, m, settings, numbers) for name, m in each]
    found = measure(conditions, facts, work)
    findings = {}
    for name, measured in found.items():
        findings[f"magnitude, {name}"] = magnitude(measured.grids)
        findings[f"wrong sign, {name}"] = wrong_sign(measured.grids)
    return Result("compare-models", found, findings)


def _name(model: Model) -> str:
    return f"{model.name} {str(model.dtype).removeprefix('torch.')}"
