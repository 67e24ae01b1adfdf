"""Arithmetic: sums, differences, the same numbers in word problems, months and days that pass."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import add, sub
from random import Random

from patchpoint.errors import InvalidArgument, UnknownName
from patchpoint.tasks.case import Case
from patchpoint.tasks.lexicon import Lexicon
from patchpoint.tasks.naming import task_name
from patchpoint.tasks.task import Task
from patchpoint.tasks.template import Template

from .examples import example_values, places_of, with_examples
from .words import MONTHS, first_names

N_NAMES = 200
MOST_DIGITS = 3
LAST_DAY = 28
"""The last day that every month has: answers stay in their month."""
TRIES = 1000
"""Draws for one problem, after which the numbers that fit are taken to allow none."""

_THINGS = """
    apples bags balls books boxes cakes cards coins cups eggs flowers keys letters pens shirts stones toys
"""
THINGS = tuple(_THINGS.split())

Pools = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Problem:
    """Values of a question's slots, those that its twin has instead, and the answers to both."""

    values: Mapping[str, str]
    changed: Mapping[str, str]
    result: str
    other: str


def ordinal(number: int) -> str:
    """`1st`, `2nd`, `3rd`, `4th`, ... `11th`, ... `21st`."""
    last = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}th" if 10 <= number % 100 <= 20 else f"{number}{last}"


def _numbers(digits: int) -> Sequence[str]:
    return [str(number) for number in range(10 ** (digits - 1), 10**digits)]


def _names(digits: int) -> Sequence[str]:
    return first_names()[:N_NAMES]


WORDS: Mapping[str, Callable[[int], Sequence[str]]] = {
    "a": _numbers,
    "b": _numbers,
    "name": _names,
    "other": _names,
    "thing": lambda digits: THINGS,
    "month": lambda digits: MONTHS,
    "months": lambda digits: [str(number) for number in range(2, len(MONTHS))],
    "day": lambda digits: [ordinal(day) for day in range(1, LAST_DAY)],
    "days": lambda digits: [str(number) for number in range(2, LAST_DAY)],
}
"""All that may stand in a slot, where numbers have so many digits."""
NUMBERS = ("a", "b", "months", "day", "days")
"""Slots of what many tokenizers write in several tokens."""


def _calculated(
    operation: Callable[[int, int], int], least: int, pools: Pools, draw: Random
) -> Problem | None:
    """Numbers, the result and the twin's result all have the same number of digits; none but `b` is below `least`."""
    values = {slot: draw.choice(words) for slot, words in pools.items()}
    a, b, other = values["a"], values["b"], draw.choice(pools["b"])
    result, wrong = (operation(int(a), int(number)) for number in (b, other))
    usable = min(int(a), result, wrong) >= least and len({len(a), len(str(result)), len(str(wrong))}) == 1
    if result == wrong or not usable or values.get("name") == values.get("other", ""):
        return None
    return Problem(values, {"b": other}, str(result), str(wrong))


def _month_after(pools: Pools, draw: Random) -> Problem | None:
    values = {slot: draw.choice(words) for slot, words in pools.items()}
    other = draw.choice(pools["months"])
    now = MONTHS.index(values["month"])
    result, wrong = (MONTHS[(now + int(n)) % len(MONTHS)] for n in (values["months"], other))
    return None if result == wrong else Problem(values, {"months": other}, result, wrong)


def _day_after(pools: Pools, draw: Random) -> Problem | None:
    values = {slot: draw.choice(words) for slot, words in pools.items()}
    other = draw.choice(pools["days"])
    today = int(values["day"][:-2])
    result, wrong = (today + int(n) for n in (values["days"], other))
    if result == wrong or max(result, wrong) > LAST_DAY:
        return None
    after, otherwise = (f"{values['month']} {ordinal(day)}" for day in (result, wrong))
    return Problem(values, {"days": other}, after, otherwise)


@dataclass(frozen=True)
class Form:
    """A wording: the question, what follows it with its answer, and how problems are made.

    `examples`: how many solved ones stand in front where nobody says. `counted`: its numbers have a given number
    of digits.
    """

    question: str
    solution: str
    problem: Callable[[Pools, Random], Problem | None]
    examples: int = 0
    counted: bool = True


_sum, _difference = partial(_calculated, add, 0), partial(_calculated, sub, 0)
# Of one thing a story would have to speak in the singular.
_told_sum, _told_difference = partial(_calculated, add, 2), partial(_calculated, sub, 2)
TEMPLATES: Mapping[str, Form] = {
    "sum": Form("{a} + {b} =", " {result}, ", _sum, examples=1),
    "difference": Form("{a} - {b} =", " {result}, ", _difference, examples=1),
    "story": Form(
        "{name} has {a} {thing}. {other} gives {name} {b} more. Now {name} has",
        " {result} {thing}.\n",
        _told_sum,
    ),
    "story-less": Form(
        "{name} has {a} {thing}. {name} gives {b} of them to {other}. Now {name} has",
        " {result} {thing}.\n",
        _told_difference,
    ),
    "story-sum": Form(
        "{name} has {a} {thing} and gets {b} more. Now {name} has {a} + {b} =", " {result}.\n", _told_sum
    ),
    "story-difference": Form(
        "{name} has {a} {thing} and gives away {b}. Now {name} has {a} - {b} =",
        " {result}.\n",
        _told_difference,
    ),
    "months-pass": Form(
        "If this month is {month}, and {months} months pass, what month is it? Answer:",
        " {result}\n",
        _month_after,
        counted=False,
    ),
    "date": Form(
        "If today is {month} {day}, then in {days} days it will be", " {result}.\n", _day_after, counted=False
    ),
}


def arithmetic(*, template: str = "sum", digits: int = 1, examples: int | None = None) -> Task:
    """`2 + 4 = 6, 3 + 5 =` -> ` 8`.

    The incorrect answer is the right one for the corrupted prompt. Roles: `a`, `b` (or `month` and `months`;
    `month`, `day` and `days`), `name`, `thing`, `other`; a role again is `a#2`; in examples they are `a1`, `b1`,
    `result1` and so on. `template`: sum, difference; story and story-less, the same as word problems; story-sum
    and story-difference, word problems that end in the calculation; months-pass (`If this month is March, and 5
    months pass, what month is it? Answer:`, 2 to 11 months); date (`If today is March 3rd, then in 11 days it will
    be`, the answer in the same month). `digits`: of the numbers and of the results, 1 to 3. `examples`: solved
    ones in front, with other results; None: as many as the wording needs, one for sum and difference, otherwise
    none. A tokenizer that writes digit by digit has the first digit scored in which the answers differ.
    Corruption: `operands`, another second number (of months, of days) and therefore another result. Raises
    UnknownName, InvalidArgument. Source: Lan et al. 2024, "Towards Interpretable Sequence Continuation" (arXiv
    2311.04131), there without examples.
    """
    if template not in TEMPLATES:
        raise UnknownName("template of arithmetic", template, TEMPLATES)
    form = TEMPLATES[template]
    if isinstance(digits, bool) or not isinstance(digits, int) or not 1 <= digits <= MOST_DIGITS:
        raise InvalidArgument(f"digits must be a whole number from 1 to {MOST_DIGITS}, got {digits!r}")
    if digits != 1 and not form.counted:
        raise InvalidArgument(f"{template} has numbers of its own; leave digits out, got {digits}")
    n_examples = form.examples if examples is None else examples
    whole = with_examples(template, form.question, form.solution, n_examples)
    return Task(
        name=task_name("arithmetic", arithmetic, template=template, digits=digits, examples=examples),
        question="what is the result?",
        source="Lan et al. 2024, arXiv 2311.04131",
        corruptions=("operands",),
        cases=partial(_cases, form, whole, n_examples, digits),
    )


def _cases(
    form: Form, whole: Template, n_examples: int, digits: int, lexicon: Lexicon, _: str, draw: Random
) -> Iterator[Case]:
    asked = Template("question", form.question).slots
    pools = {slot: _fitting(lexicon, whole, slot, WORDS[slot](digits)) for slot in asked}
    while all(pools.values()):
        problem = _problem(form, pools, draw)
        if problem is None:
            return
        clean = dict(problem.values)
        for number in range(1, n_examples + 1):
            solved = _problem(form, pools, draw, unlike=(problem.result, problem.other))
            if solved is None:
                return
            clean |= example_values({**solved.values, "result": solved.result}, number)
        yield Case(
            template=whole,
            clean=clean,
            corrupt={**clean, **problem.changed},
            correct=f" {problem.result}",
            incorrect=f" {problem.other}",
            metadata={**problem.values, "result": problem.result},
        )


def _fitting(lexicon: Lexicon, whole: Template, slot: str, words: Sequence[str]) -> Sequence[str]:
    """Numbers take as many tokens as most of them, which at the beginning of a text may be more than within."""
    places = places_of(whole, slot)
    if slot not in NUMBERS:
        return lexicon.fitting(f"words for {slot}", words, places)
    unlike = {whole.around(name): name for _, name in places}
    kept = [
        set(lexicon.fitting(f"numbers for {name}", words, [(whole, name)], n_tokens=None))
        for name in unlike.values()
    ]
    return [word for word in words if all(word in fitting for fitting in kept)]


def _problem(form: Form, pools: Pools, draw: Random, unlike: Sequence[str] = ()) -> Problem | None:
    """A problem with another result than these; None where many draws give none."""
    for _ in range(TRIES):
        problem = form.problem(pools, draw)
        if problem is not None and problem.result not in unlike:
            return problem
    return None
