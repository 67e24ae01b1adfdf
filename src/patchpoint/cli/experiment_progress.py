"""Progress of an experiment on a terminal: a bar per condition."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from patchpoint.experiments.fact_run import Outcome


@dataclass(frozen=True)
class Watch:
    """What is called as an experiment goes on."""

    on_condition: Callable[[str, int], None]
    on_outcome: Callable[[Outcome], None]


@contextmanager
def watched(name: str, console: Console) -> Iterator[Watch]:
    """Bars on the console while the block runs; where it is no terminal, a line per condition."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    live = console.is_terminal and not console.quiet
    with Progress(*columns, console=console, disable=not live) as progress:
        tasks = []

        def on_condition(condition: str, total: int) -> None:
            tasks.append(progress.add_task(f"{name}: {condition}", total=total))
            if not live:
                console.print(f"{name}: {condition}", markup=False, soft_wrap=True)

        def on_outcome(outcome: Outcome) -> None:
            progress.update(tasks[-1], advance=outcome.status == "traced")

        yield Watch(on_condition, on_outcome)
