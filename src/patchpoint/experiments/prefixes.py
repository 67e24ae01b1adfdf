"""Experiments with true or false sentences in front of the prompt."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from patchpoint.engine import Model
from patchpoint.errors import FactError, InvalidArgument, PromptError
from patchpoint.tasks.facts import Fact, FactFile

from .condition import WORK, Condition, Work, measure
from .fact_run import answers
from .findings import by_place, by_position
from .result import Result
from .settings import SETTINGS, TWIN, FactSettings
from .twins import prefix_twin

Sentences = Sequence[tuple[str, str]]
"""Sentences that are true, each with a false one of as many tokens."""

THREE: Sentences = (
    ("Beats Music is owned by Apple.", "Beats Music is owned by Microsoft."),
    ("Audible.com is owned by Amazon.", "Audible.com is owned by Google."),
    ("Catalonia belongs to the continent of Europe.", "Catalonia belongs to the continent of America."),
)
FIVE: Sentences = (
    *THREE,
    ("The capital of Japan is Tokyo.", "The capital of Japan is London."),
    ("Wolfgang Mozart played the piano.", "Wolfgang Mozart played the guitar."),
)
N_FACTS = 25


def prefix(
    model: Model,
    facts: FactFile,
    *,
    sentences: Sentences = THREE,
    limit: int | None = N_FACTS,
    settings: FactSettings = SETTINGS,
    work: Work = WORK,
) -> Result:
    """True states restored into the run behind false sentences, and false states put into the true run.

    Every token of sentences and prompt is a site. Facts that the model does not answer behind the true
    sentences, or whose subject a sentence names, are skipped.
    """
    check(sentences)
    each = {"true into false": "restore", "false into true": "corrupt"}
    conditions = [
        Condition(name, model, _behind(replace(settings, direction=direction, limit=limit), sentences))
        for name, direction in each.items()
    ]
    found = measure(conditions, facts, work)
    return Result("prefix", found, {name: by_place(measured.grids) for name, measured in found.items()})


def fact_position(
    model: Model,
    facts: FactFile,
    *,
    sentences: Sentences = FIVE,
    orders: Sequence[Sequence[int]] | None = None,
    limit: int | None = N_FACTS,
    settings: FactSettings = SETTINGS,
    work: Work = WORK,
) -> Result:
    """Each sentence alone in front, then all of them in every order asked for: its effect by its position.

    The same prompts under all of these: the first `limit` that the model answers behind each.
    `orders` name the sentences from 1 (default: the rotations, in which each stands at each position once).
    """
    check(sentences)
    n = len(sentences)
    orders = [[(i + k) % n + 1 for i in range(n)] for k in range(n)] if orders is None else orders
    for order in orders:
        if sorted(order) != list(range(1, n + 1)):
            raise InvalidArgument(f"the order {list(order)} must name each of the sentences 1 to {n} once")
    alone = {f"alone {i}": (i,) for i in range(1, n + 1)}
    stacked = {f"order {'-'.join(map(str, order))}": tuple(order) for order in orders}
    limited = replace(settings, limit=limit)
    each = {
        name: _behind(limited, [sentences[i - 1] for i in order]) for name, order in (alone | stacked).items()
    }
    numbers = _answered_behind_all(model, facts, tuple(each.values()))
    conditions = [Condition(name, model, behind, numbers) for name, behind in each.items()]
    found = measure(conditions, facts, work)
    return Result(
        "fact-position",
        found,
        by_position(
            [found[name].grids for name in alone],
            {order: found[name].grids for name, order in stacked.items()},
        ),
    )


def _answered_behind_all(model: Model, facts: FactFile, each: Sequence[FactSettings]) -> tuple[int, ...]:
    """Rows of the first facts that can be traced under all these settings. Raises FactError for none."""
    answered = (fact for fact in facts.facts if all(_answered(model, fact, settings) for settings in each))
    numbers = tuple(fact.number for fact in islice(answered, each[0].limit))
    if not numbers:
        raise FactError(
            f"no fact of {str(facts.path)!r} is answered behind every sentence and order; give other facts, or "
            "--answer attribute"
        )
    return numbers


def _answered(model: Model, fact: Fact, settings: FactSettings) -> bool:
    try:
        prefix_twin(fact, settings.prefix, settings.false_prefix)
    except PromptError:
        return False
    return answers(model, fact, settings)


def check(sentences: Sentences) -> None:
    """InvalidArgument unless there are sentences, all different, each with a false one that differs from it."""
    texts = [text for pair in sentences for text in pair]
    if not sentences or any(len(pair) != 2 for pair in sentences) or not all(map(str.strip, texts)):
        raise InvalidArgument("give at least one pair of a true and a false sentence, neither of them empty")
    if len(set(texts)) != len(texts):
        raise InvalidArgument("the true and false sentences must all be different texts")


def _behind(settings: FactSettings, sentences: Sentences) -> FactSettings:
    true, false = (tuple(pair[side] for pair in sentences) for side in (0, 1))
    return replace(settings, noise=TWIN, prefix=true, false_prefix=false, samples=1)
