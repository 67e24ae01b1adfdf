"""`patchpoint task`: prompts with known answers, and which of them a model can do."""

import inspect
from typing import Any

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from patchpoint.errors import PatchpointError, ResultsError
from patchpoint.tasks.catalogue import TASKS, settings_of
from patchpoint.tasks.kinds.country_facts import write_fact_file
from patchpoint.tasks.resampling import RESAMPLED

from .options import AsJson, print_json
from .task_check import check_command
from .task_files import made_folder
from .task_generate import generate_command
from .task_options import FactFile
from .task_show import show_command

app = typer.Typer(
    help="Prompts with known answers and corrupted twins, and which tasks a model can do.",
    no_args_is_help=True,
)
app.command("generate")(generate_command)
app.command("check")(check_command)
app.command("show")(show_command)


@app.command("list")
def list_tasks(as_json: AsJson = False) -> None:
    """The tasks: what a model must do, settings with their defaults, corruptions and source.

    Example: patchpoint task list
    """
    rows = [_row(name) for name in TASKS]
    if as_json:
        print_json({"tasks": rows})
        return
    table = Table(Column("task", no_wrap=True), "question, settings, corruptions, source", show_lines=True)
    for row in rows:
        table.add_row(row["name"], _told(row))
    Console(highlight=False).print(table)


@app.command("facts")
def facts(out: FactFile, as_json: AsJson = False) -> None:
    """Facts of public tables as a file for `patchpoint trace --facts`.

    Example: patchpoint task facts --out facts.jsonl
    """
    made_folder(out.parent)
    if out.is_dir():
        raise ResultsError(f"{str(out)!r} is a folder; give a file, such as facts.jsonl")
    number = write_fact_file(out)
    if as_json:
        print_json({"out": str(out), "facts": number})
    else:
        Console(highlight=False).print(f"{number} facts: {out}", markup=False, soft_wrap=True)


def _row(name: str) -> dict[str, Any]:
    """One task as it is when nothing is said; one that needs settings is told by its docstring."""
    maker = TASKS[name]
    told: dict[str, Any] = {"name": name, "settings": settings_of(maker)}
    try:
        task = maker()
    except PatchpointError:
        question = (inspect.getdoc(maker) or "").split("\n")[0]
        return told | {"question": question, "corruptions": [RESAMPLED], "source": "", "needs_settings": True}
    return told | {
        "question": task.question,
        "corruptions": [*task.corruptions, RESAMPLED],
        "source": task.source,
        "needs_settings": False,
    }


def _told(row: dict[str, Any]) -> Text:
    """A task in lines, those that it has."""
    settings = [name if value is None else f"{name}={value}" for name, value in row["settings"].items()]
    lines = [
        Text(row["question"]),
        *([Text(f"settings: {', '.join(settings)}", "cyan")] if settings else []),
        Text(f"corruptions: {', '.join(row['corruptions'])}"),
        *([Text(row["source"], "dim")] if row["source"] else []),
    ]
    return Text("\n").join(lines)
