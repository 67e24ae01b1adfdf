"""One experiment run, kept, drawn and shown."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from patchpoint.engine import Model
from patchpoint.experiments import FactSettings, Work
from patchpoint.experiments.catalogue import Experiment
from patchpoint.report.experiment import Made, write_experiment
from patchpoint.tasks.facts import FactFile

from .experiment_progress import watched
from .experiment_requests import Given

SHOWN = ("condition", "role", "layer", "level", "mean")
"""Columns of the table in a terminal; the page and the files have all."""
WRAPPED = ("condition", "role")


@dataclass(frozen=True)
class Asked:
    """An experiment with its settings and options, and how to ask for it again."""

    experiment: Experiment
    settings: FactSettings
    options: Mapping[str, Given]
    command: str
    call: str


def run_asked(
    asked: Asked,
    model: Model,
    against: Model | None,
    facts: FactFile,
    work: Work,
    formats: tuple[str, ...],
    console: Console,
) -> Made:
    """Run an experiment and write its files."""
    options = {name: given.value for name, given in asked.options.items()}
    if "against" in options:
        options["against"] = against
    with watched(asked.experiment.name, console) as watch:
        watching = replace(work, on_condition=watch.on_condition, on_outcome=watch.on_outcome)
        result = asked.experiment.run(model, facts, settings=asked.settings, work=watching, **options)
    assert work.out is not None
    with console.status(f"{asked.experiment.name}: drawing"):
        return write_experiment(asked.experiment, result, work.out, formats, asked.command, asked.call)


def document(made: Made) -> dict[str, Any]:
    """What an experiment found, for JSON: its tables but for the long ones, and its files."""
    return {
        "experiment": made.name,
        "page": str(made.page),
        "answer": dict(made.result.answer),
        "facts": {name: len(measured.grids) for name, measured in made.result.conditions.items()},
        "tables": {
            table.name: table.frame.to_dict("records")
            for table in made.tables
            if table.name not in ("averages", "facts")
        },
        "files": [str(path) for path in made.files],
    }


def show(made: Made) -> None:
    """The peaks of each condition, or where there are none the experiment's own findings, and where all is."""
    out = Console(highlight=False)
    shown = made.tables[0]
    columns = [name for name in shown.frame.columns if name in SHOWN and shown.frame[name].nunique() > 1]
    table = Table(title=f"{made.name}: {shown.caption}", box=SIMPLE)
    for name in columns:
        table.add_column(name, no_wrap=name not in WRAPPED)
    table.add_column("95% interval", no_wrap=True)
    for row in shown.frame.to_dict("records"):
        interval = f"{row['low']:.4f} to {row['high']:.4f}" if row["low"] == row["low"] else "one fact"
        cells = (row[name] for name in columns)
        table.add_row(*(f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in cells), interval)
    out.print(table)
    for name, value in made.result.answer.items():
        out.print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}", markup=False)
    out.print(f"page: {made.page}", markup=False, soft_wrap=True)
