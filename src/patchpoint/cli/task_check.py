"""`patchpoint task check`: which tasks a model can do."""

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from patchpoint.engine import Model
from patchpoint.errors import InvalidArgument, ResultsError, TaskError, UnknownName
from patchpoint.tasks.catalogue import CHECKED, TASKS, task
from patchpoint.tasks.feasibility import N_CHECKED, Feasibility, check
from patchpoint.tasks.screening import RATIO, check_ratio

from .options import DEFAULT, AllowPickle, AsJson, Device, Dtype, Quiet, Seed, model_for, notes, print_json
from .task_files import made_folder, write_table
from .task_options import CheckedModel, Number, Only, OtherModel, Ratio, TableFile
from .trace_options import Bos

FIGURES = ("n", "accuracy", "top 5", "logit diff", "p", "sampled", "accepted")
Row = tuple[str, Mapping[str, Any]]


def check_command(
    model: CheckedModel = None,
    only: Only = None,
    n: Number = N_CHECKED,
    ratio: Ratio = RATIO,
    bos: Bos = None,
    out: TableFile = None,
    seed: Seed = 0,
    other_model: OtherModel = None,
    device: Device = None,
    dtype: Dtype = None,
    allow_pickle: AllowPickle = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Which tasks a model can do, over prompts that were not screened: accuracy, logit difference, probabilities.

    Example: patchpoint task check smollm2-135m --out check.csv
    """
    console = notes(quiet)
    check_ratio(ratio)
    if model and other_model and model != other_model:
        raise InvalidArgument(f"two models, {model!r} and --model {other_model!r}; give one")
    rows = _asked(only or ())
    if out is not None:
        if out.is_dir():
            raise ResultsError(f"{str(out)!r} is a folder; give a file for the table, such as check.csv")
        made_folder(out.parent)
    loaded = model_for(model or other_model or DEFAULT, device, dtype, allow_pickle, console)
    found = _measured(rows, loaded, n, seed, ratio, bos, console)
    if out is not None:
        write_table(out, tuple(found[0].to_dict()), [tuple(one.to_dict().values()) for one in found])
    if as_json:
        print_json(
            {
                "model": loaded.name,
                "n": n,
                "seed": seed,
                "ratio": ratio,
                "tasks": [one.to_dict() for one in found],
                "out": None if out is None else str(out),
            }
        )
        return
    terminal = Console(highlight=False)
    terminal.print(_table([one for one in found if one.reason is None], loaded.name, ratio))
    for one in found:
        if one.reason is not None:
            terminal.print(f"{one.task}: not measured: {one.reason}", markup=False, soft_wrap=True)
    if out is not None:
        terminal.print(f"table: {out}", markup=False, soft_wrap=True)


def _asked(only: Sequence[str]) -> tuple[Row, ...]:
    """The rows to measure, in the catalogue's order. Raises UnknownName, InvalidArgument."""
    checked = tuple(dict.fromkeys(name for name, _ in CHECKED))
    for name in only:
        if name not in TASKS:
            raise UnknownName("task", name, TASKS)
        if name not in checked:
            raise InvalidArgument(
                f"task {name} is not checked, as its prompts are yours; see `patchpoint task generate {name} --help`"
            )
    return tuple(row for row in CHECKED if not only or row[0] in only)


def _measured(
    rows: Sequence[Row], model: Model, n: int, seed: int, ratio: float, bos: bool | None, console: Console
) -> list[Feasibility]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    found = []
    with Progress(*columns, console=console, disable=not console.is_terminal or console.quiet) as bar:
        line = bar.add_task("", total=len(rows))
        for name, settings in rows:
            asked = task(name, **settings)
            bar.update(line, description=asked.name)
            try:
                found.append(check(asked, model, n, seed, ratio=ratio, bos=bos))
            except TaskError as error:
                found.append(Feasibility(asked.name, 0, reason=str(error)))
            bar.advance(line)
    return found


def _table(found: Sequence[Feasibility], model: str, ratio: float) -> Table:
    """Narrow enough for 80 columns with all its figures."""
    table = Table(
        Column("task", overflow="fold"),
        *(Column(name, justify="right") for name in FIGURES),
        title=Text(f"{model}: tasks, unscreened"),
        title_justify="left",
        caption="accuracy: most likely token correct; [ ], ±: 95% intervals; logit diff: correct - incorrect; p: of "
        "the correct token; sampled: whole answers drawn at temperature 1; accepted: would pass screening at "
        f"ratio {ratio:g}",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=0,
        show_edge=False,
    )
    for one in found:
        table.add_row(Text(one.task), *_cells(one))
    return table


def _cells(one: Feasibility) -> tuple[str, ...]:
    spread = "" if isnan(one.logit_diff_low) else f" ±{one.logit_diff_high - one.logit_diff:.2f}"
    return (
        str(one.n),
        f"{one.accuracy:.0%} [{100 * one.accuracy_low:.0f}-{100 * one.accuracy_high:.0f}]",
        f"{one.top5:.0%}",
        f"{one.logit_diff:+.2f}{spread}",
        f"{one.prob:.3f}",
        f"{one.sampled:.0%}",
        f"{one.acceptance:.0%}",
    )
