"""Prompts of a task for one model: candidates, screened block by block, balanced.

Several tasks are generated together from the same draws, so that their prompts are the same sentences but for what
each task exchanges (number words and months in one sentence, say); one task is the case of a single one.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from patchpoint.engine import Model
from patchpoint.errors import InvalidArgument, TaskError

from .balance import balanced, shares_filled
from .candidates import Dropped, Row, candidates
from .lexicon import Lexicon
from .prompts import Prompts, header_of
from .screening import BLOCK, RATIO, Report, Scores, check_ratio, score

if TYPE_CHECKING:
    from .task import Task

N_PROMPTS = 64
"""Prompts of a task where nobody says how many."""
CANDIDATES_EACH = 16
"""Most candidates per prompt asked for."""

Progress = Callable[[int, int, int], None]
"""Hears how many prompts were accepted, how many seen, and how many are seen at most."""


def generate(task: "Task", model: Model, n: int = N_PROMPTS, seed: int = 0, **settings: object) -> Prompts:
    """Prompts of one task; settings as those of `generate_together` and `Task.generate`."""
    return generate_together([task], model, n, seed, **settings)[task.name]  # type: ignore[arg-type]


def generate_together(
    tasks: Sequence["Task"],
    model: Model,
    n: int = N_PROMPTS,
    seed: int = 0,
    *,
    corruption: str | None = None,
    ratio: float = RATIO,
    screen: bool = True,
    bos: bool | None = None,
    candidates: int | None = None,
    on_block: Progress | None = None,
) -> dict[str, Prompts]:
    """Prompts of several tasks, by task, prompt by prompt from the same draw; kept where every task passes.

    For the tasks of sequences the sentences are then the same but for their members. They are balanced over the
    groups of the first task. Everything else as in `Task.generate`.
    """
    most = CANDIDATES_EACH * n if candidates is None else candidates
    _check(tasks, n, most, ratio)
    funnel = Funnel(
        tuple(tasks),
        model,
        [task.corruption(corruption) for task in tasks],
        seed,
        ratio if screen else None,
        bos,
    )
    at_once = min(BLOCK, 2 * n)
    while not funnel.enough(n, most) and funnel.look(min(at_once, most - len(funnel.rows))):
        if on_block is not None:
            on_block(int(funnel.accepted.sum()), len(funnel.rows), most)
    if funnel.accepted.sum() < n:
        raise TaskError(funnel.shortage(n, most), funnel.reports())
    return funnel.prompts(n)


def _check(tasks: Sequence["Task"], n: int, most: int, ratio: float) -> None:
    check_ratio(ratio)
    if n < 1:
        raise InvalidArgument(f"n must be at least 1, got {n}")
    if most < n:
        raise InvalidArgument(f"candidates must be at least n, got {most} for {n} prompts")
    names = [task.name for task in tasks]
    if not names or len(set(names)) < len(names):
        raise InvalidArgument(f"give each task once, at least one; got {', '.join(names) or 'none'}")


@dataclass
class Funnel:
    """Candidates on their way through a model, a block at a time."""

    tasks: tuple["Task", ...]
    model: Model
    corruptions: Sequence[str]
    seed: int
    ratio: float | None
    bos: bool | None
    rows: list[Row] = field(default_factory=list)
    scores: list[list[Scores]] = field(default_factory=list)
    """Per task, one per block."""

    def __post_init__(self) -> None:
        self.dropped = [Dropped() for _ in self.tasks]
        self.lexicons = [Lexicon(self.model.tokenizer) for _ in self.tasks]
        self.scores = [[] for _ in self.tasks]
        self.passed = np.zeros(0, dtype=bool)
        self.source = candidates(
            self.model, self.tasks, self.corruptions, self.lexicons, self.seed, self.bos, self.dropped
        )

    @property
    def accepted(self) -> np.ndarray:
        """Per candidate, whether every task's prompt passes."""
        return self.passed

    def look(self, n: int) -> bool:
        """Take the next candidates and score them; False when there are none."""
        block = list(islice(self.source, n))
        if not block:
            return False
        self.rows += block
        passed = np.ones(len(block), dtype=bool)
        for column, scores in enumerate(self.scores):
            mine = score(self.model, [row[column].pair for row in block])
            scores.append(mine)
            passed &= True if self.ratio is None else mine.accepted(self.ratio)
        self.passed = np.concatenate([self.passed, passed])
        return True

    @property
    def groups(self) -> list[str]:
        """Per candidate, what prompts are balanced over."""
        return [row[0].case.group for row in self.rows]

    def enough(self, n: int, most: int) -> bool:
        """Whether further candidates are not needed, not allowed or hopeless."""
        seen = Counter(self.groups)
        kept = Counter(group for group, passed in zip(self.groups, self.passed, strict=True) if passed)
        n_kept, n_seen = int(self.passed.sum()), len(self.rows)
        # The upper end of the 95% interval of a rate seen as k of n is about (k + 3) / n.
        hopeless = n_seen >= 2 * BLOCK and (n_kept + 3) / n_seen * most < n
        return n_seen >= most or hopeless or shares_filled(kept, seen, n, most)

    def reports(self) -> dict[str, Report]:
        """By task, what became of its candidates."""
        return {
            task.name: Report(
                task.name,
                self.model.name,
                self.corruptions[column],
                self.seed,
                self.ratio,
                tuple(self.lexicons[column].fillers),
                dict(self.dropped[column].counts),
                dict(self.dropped[column].examples),
                tuple(row[column].pair.texts[0] for row in self.rows),
                tuple(row[column].case.group for row in self.rows),
                Scores.joined(self.scores[column]),
                self.passed,
            )
            for column, task in enumerate(self.tasks)
        }

    def prompts(self, n: int) -> dict[str, Prompts]:
        """By task, `n` accepted prompts, balanced."""
        accepted = [row for row, passed in zip(self.rows, self.passed, strict=True) if passed]
        chosen = [accepted[i] for i in balanced([row[0].case.group for row in accepted], n)]
        found = {}
        for column, (name, report) in enumerate(self.reports().items()):
            cases = [row[column].case for row in chosen]
            found[name] = Prompts.of(
                self.model,
                [row[column].pair for row in chosen],
                header=header_of(
                    self.model,
                    name,
                    bos=self.bos,
                    corruption=report.corruption,
                    seed=self.seed,
                    report=report,
                ),
                groups=[case.group for case in cases],
                metadata=[{"template": case.template.name, **case.metadata} for case in cases],
                report=report,
            )
        return found

    def shortage(self, n: int, most: int) -> str:
        """Why there are fewer than `n` prompts, with the figures."""
        names = ", ".join(task.name for task in self.tasks)
        kept, seen = int(self.passed.sum()), len(self.rows)
        why = "; ".join(
            f"{count} dropped: {reason} ({dropped.examples[reason]})"
            for dropped in self.dropped
            for reason, count in dropped.counts.most_common(2)
        )
        if not seen:
            few = "; ".join(str(one) for lexicon in self.lexicons for one in lexicon.fillers)
            return f"{names}: no prompt fits the tokenizer of {self.model.name}; {why or few or 'it has no cases'}"
        rates = "; ".join(
            f"{name}: accuracy {report.accuracy:.1%}, mean logit difference {report.mean_logit_diff:.2f}"
            for name, report in self.reports().items()
        )
        if self.ratio is None or (kept == seen and seen < most):
            more = why or "there are no more"
            return f"{names}: only {seen} different prompts for {self.model.name}, {n} asked; {more}"
        return (
            f"{self.model.name} does too little of {names}: {kept} of {seen} candidates accepted ({kept / seen:.1%}), "
            f"{n} asked; {rates}; try {f'at most {kept} prompts, ' if kept else ''}other settings, or no screening"
        )
