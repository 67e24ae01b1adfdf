"""Prompts generated with progress and written, with the scores of all candidates, whether there are enough or not."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from patchpoint.engine import Model
from patchpoint.errors import TaskError
from patchpoint.tasks.generation import Progress as OnBlock
from patchpoint.tasks.generation import generate_together
from patchpoint.tasks.prompts import Prompts
from patchpoint.tasks.screening import Report
from patchpoint.tasks.task import Task

from .task_files import write_screening


@dataclass(frozen=True, eq=False)
class Written:
    """Prompts of one task, what became of its candidates, and the files that hold them."""

    prompts: Prompts
    report: Report
    path: Path
    screening: tuple[Path, ...]


def generated(
    tasks: Mapping[str, Task],
    model: Model,
    n: int,
    seed: int,
    settings: Mapping[str, Any],
    folder: Path,
    formats: Sequence[str],
    console: Console,
) -> list[Written]:
    """Prompts of the tasks, by the names they were asked for, in files of `folder`.

    Raises TaskError where the model passes too few; the scores of its candidates are written all the same.
    """
    stems = {task.name: ("prompts", "screening") for task in tasks.values()}
    if len(tasks) > 1:
        stems = {task.name: (name, f"{name}-screening") for name, task in tasks.items()}
    try:
        with _progress(console, n) as on_block:
            found = generate_together(list(tasks.values()), model, n, seed, on_block=on_block, **settings)
    except TaskError as error:
        raise _with_scores(error, stems, folder, formats) from None
    written = []
    for name, prompts in found.items():
        assert prompts.report is not None
        path, stem = folder / f"{stems[name][0]}.jsonl", stems[name][1]
        prompts.save(path)
        screening = write_screening(prompts.report, folder, stem, formats)
        written.append(Written(prompts, prompts.report, path, tuple(screening)))
    return written


def _with_scores(
    error: TaskError, stems: Mapping[str, tuple[str, str]], folder: Path, formats: Sequence[str]
) -> TaskError:
    """The same error, which also says where the scores of the candidates are."""
    paths = [
        write_screening(report, folder, stems[name][1], formats)[0]
        for name, report in error.reports.items()
        if isinstance(report, Report) and report.n_candidates
    ]
    if not paths:
        return error
    return TaskError(f"{error}; every candidate's scores: {', '.join(map(str, paths))}", error.reports)


@contextmanager
def _progress(console: Console, n: int) -> Iterator[OnBlock]:
    """A bar over the prompts wanted, and beside it how many candidates were looked at."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}"))
    with Progress(
        *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal or console.quiet
    ) as bar:
        task = bar.add_task("screening", total=n, told="")

        def on_block(accepted: int, seen: int, most: int) -> None:
            told = f"{accepted} accepted of {seen} seen, {n} wanted; looks at {most} at most"
            bar.update(task, completed=min(accepted, n), told=told)

        yield on_block
