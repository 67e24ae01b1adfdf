"""Prompts of your own: from a file of pairs, or from a template with values for its slots."""

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from random import Random

from patchpoint.errors import InvalidArgument
from patchpoint.tasks.case import Case
from patchpoint.tasks.lexicon import Lexicon
from patchpoint.tasks.task import Task
from patchpoint.tasks.template import Template

from .custom_files import PairRow, read_pairs
from .custom_slots import Plan, from_file, from_words
from .differences import differing

PAIR, SLOTS = "pair", "slots"
"""The twin that the file has; other values in the slots that vary."""
WHOLE = Template("prompt", "{prompt}")
QUESTION = "which answer do prompts of your own have?"


def custom(
    *,
    file: str | os.PathLike[str] | None = None,
    template: str | None = None,
    slots: Mapping[str, Sequence[str]] | None = None,
    correct: str | None = None,
    incorrect: str | None = None,
    vary: Sequence[str] | None = None,
) -> Task:
    """Prompts of your own, from a file of pairs or from a template with slots.

    `file` alone: JSON lines, a JSON list or CSV with the columns clean, correct and perhaps corrupt, incorrect,
    group (balanced over) and others (metadata); also what `Prompts.save` wrote, without its further answers. The
    words in which clean and corrupt differ become the roles `difference`, `difference2`, ... Without corrupt,
    twins are other rows (`resampled`); without incorrect, it is the correct answer of another row.

    `template`, such as "The capital of {country} is", with `correct`, such as "{capital}": the values stand in the
    columns of `file`, or `slots` gives the words of each slot, whose combinations are drawn (all, or 100,000). The
    twin has the words of another row or combination in the slots `vary` (default: all); its correct answer is the
    incorrect one unless `incorrect` says otherwise. Of each slot only words with its most common number of tokens
    are used.

    Answers without white space in front follow the text behind one space. Raises InvalidArgument and UnknownName
    for settings, PromptError for a file, naming every bad row.
    """
    settings = {"template": template, "correct": correct, "incorrect": incorrect, "vary": vary}
    told = {"file": None if file is None else Path(file).name, **settings}
    name = " ".join(["custom", *(f"{key}={value!r}" for key, value in told.items() if value is not None)])
    if template is None:
        return _of_pairs(name, file, {"slots": slots, **settings})
    if correct is None:
        raise InvalidArgument("a template needs its answer; give correct=, such as correct='{capital}'")
    plan = Plan.of(template, correct, incorrect, vary)
    if file is not None and slots is None:
        source = from_file(file, plan)
    elif slots is not None and file is None:
        source = from_words(slots, plan)
    else:
        raise InvalidArgument("a template takes its values from file= or from slots=; give one of the two")
    return Task(
        name,
        QUESTION,
        "a template of your own",
        (SLOTS,),
        lambda lexicon, _corruption, draw: plan.cases(source, lexicon, draw),
    )


def _of_pairs(name: str, file: str | os.PathLike[str] | None, others: Mapping[str, object]) -> Task:
    if file is None:
        raise InvalidArgument("custom needs file=, or template= with slots= or file=; give one of them")
    given = [setting for setting, value in others.items() if value is not None]
    if given:
        raise InvalidArgument(
            f"{', '.join(given)} goes with template=; a file of pairs has its answers itself"
        )
    rows = read_pairs(file)
    answers = tuple(dict.fromkeys(row.correct for row in rows))

    def cases(_lexicon: Lexicon, _corruption: str, draw: Random) -> Iterator[Case]:
        by_group: dict[str, list[PairRow]] = {}
        for row in draw.sample(rows, len(rows)):
            by_group.setdefault(row.group, []).append(row)
        for turn in zip_longest(*by_group.values()):
            for row in filter(None, turn):
                yield _case(row, answers, draw)

    own = (PAIR,) if rows[0].corrupt is not None else ()
    return Task(name, QUESTION, "a file of your own", own, cases)


def _case(row: PairRow, answers: Sequence[str], draw: Random) -> Case:
    template, clean, corrupt = WHOLE, {"prompt": row.clean}, {"prompt": row.clean}
    if row.corrupt is not None:
        template, clean, corrupt = differing(row.clean, row.corrupt)
    return Case(
        template=template,
        clean=clean,
        corrupt=corrupt,
        correct=row.correct,
        incorrect=row.incorrect or draw.choice([answer for answer in answers if answer != row.correct]),
        group=row.group,
        metadata=row.metadata,
    )
