"""Conditions: the same facts traced in different ways, each in a results folder of its own.

A folder's name holds a hash of all that changes its numbers, so that experiments which share a condition share its
folder, and a stopped experiment goes on where it was.
"""

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from patchpoint.doctor import Verdict
from patchpoint.engine import Model
from patchpoint.errors import InvalidArgument
from patchpoint.results import RunRecord, Store, open_run
from patchpoint.results.averages import grids_of
from patchpoint.tasks.facts import FactFile

from .fact_run import Outcome, record_of, trace_facts
from .findings import agreement_over_facts
from .result import Measured
from .settings import FactSettings

MEASUREMENTS = "measurements"
HASH_LETTERS = 10


@dataclass(frozen=True, eq=False)
class Condition:
    """One way of tracing facts: by a model, with settings; `numbers` of the file's facts in that order, or all.

    `facts` are others than the experiment's, over which relative noise is still measured.
    """

    name: str
    model: Model
    settings: FactSettings
    numbers: tuple[int, ...] | None = None
    facts: FactFile | None = None


@dataclass(frozen=True, eq=False)
class Work:
    """Where results go (`out`; None: nowhere, they are only returned), and how the work is done and watched.

    `checked`: under an approximate method so many facts are traced exactly as well, to measure its agreement.
    `on_condition` is called with a condition's name and how many facts it counts, `on_outcome` after each fact;
    `verdicts` are the doctor's, by model fingerprint, to be kept with the results.
    """

    out: Path | None = None
    memory_gib: float | None = None
    checked: int = 3
    on_condition: Callable[[str, int], None] = lambda name, total: None
    on_outcome: Callable[[Outcome], None] = lambda outcome: None
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)


WORK = Work()
"""That of an experiment that is given none: nothing is kept."""


def measure(conditions: Sequence[Condition], facts: FactFile, work: Work) -> dict[str, Measured]:
    """Trace the facts under each condition, in order. Raises ResultsError when the disk refuses.

    Raises InvalidArgument when no fact of a condition could be traced.
    """
    found = {}
    with ExitStack() as stack:
        folder = (work.out or Path(stack.enter_context(tempfile.TemporaryDirectory()))) / MEASUREMENTS
        for condition in conditions:
            measured = _measured(condition, facts, folder, work)
            if condition.settings.method != "exact" and work.checked:
                numbers = tuple(grid.number for grid in measured.grids[: work.checked])
                settings = replace(condition.settings, method="exact", limit=None)
                twin = replace(condition, name=f"{condition.name} exact", settings=settings, numbers=numbers)
                exact = _measured(twin, facts, folder, work)
                measured = replace(measured, agreement=agreement_over_facts(measured.grids, exact.grids))
            found[condition.name] = measured
    return found


def _measured(condition: Condition, population: FactFile, folder: Path, work: Work) -> Measured:
    settings, facts = condition.settings, condition.facts or population
    arguments = {**asdict(settings), "numbers": condition.numbers}
    record = record_of(condition.model, arguments, settings.seed, facts.sha256)
    record = record.with_(doctor=work.verdicts.get(record.model_fingerprint))
    place = folder_of(folder, condition.name, record)
    total = len(facts.facts) if condition.numbers is None else len(condition.numbers)
    work.on_condition(condition.name, min(total, settings.limit or total))
    with Store.create_or_resume(place, record) as store:
        for number, status in store.statuses().items():
            work.on_outcome(Outcome(number, status, None))
        trace_facts(
            condition.model,
            facts,
            store,
            settings,
            numbers=condition.numbers,
            population=population,
            memory_gib=work.memory_gib,
            on_outcome=work.on_outcome,
        )
    run = open_run(place)
    grids = grids_of(run)
    if not grids:
        reasons = [row["reason"] for row in run if row["reason"]]
        raise InvalidArgument(
            f"no fact could be traced under condition {condition.name!r}: {len(reasons)} left out, the first "
            f"because: {reasons[0] if reasons else 'there is none'}; give other facts or --answer attribute"
        )
    order = {number: place for place, number in enumerate(condition.numbers or ())}
    grids = sorted(grids, key=lambda grid: order.get(grid.number, grid.number))
    stds = {run.fact(grid.number)["noise_std"] for grid in grids}
    std = stds.pop() if len(stds) == 1 else None
    return Measured(settings, condition.model.name, tuple(grids), run.record.counts.skipped, std)


def folder_of(folder: Path, condition: str, record: RunRecord) -> Path:
    """Where a run lies: the folder that has its hash, or a new one with the condition's name before the hash."""
    identity = [
        record.arguments,
        record.dtype,
        record.model_fingerprint,
        record.tokenizer_fingerprint,
        record.facts_sha256,
    ]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:HASH_LETTERS]
    words = re.sub(r"[^A-Za-z0-9.+-]+", "-", condition).strip("-")
    return next(iter(sorted(folder.glob(f"*-{digest}"))), folder / f"{words}-{digest}")
