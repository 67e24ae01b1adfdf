"""A file of facts traced, with progress, and drawn when it is done."""

from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from patchpoint.engine import Model
from patchpoint.experiments import FactSettings
from patchpoint.experiments.fact_run import Outcome, record_of, trace_facts
from patchpoint.plots.run import Look, draw_run
from patchpoint.results import Store, open_run
from patchpoint.tasks.facts import FactFile

from .doctor import diagnosed
from .options import print_json


class RateColumn(ProgressColumn):
    """Facts per minute."""

    def render(self, task: Task) -> Text:
        """The rate of the last minute, or nothing before the first fact."""
        return Text("" if task.speed is None else f"{60 * task.speed:.1f} facts/min")


def trace_file(
    model: Model,
    facts: FactFile,
    settings: FactSettings,
    memory_gib: float | None,
    folder: Path,
    look: Look,
    as_json: bool,
    console: Console,
) -> None:
    """Trace, keep and draw the facts of a file, or continue where an earlier run of the same stopped."""
    for problem in facts.problems:
        console.print(f"row {problem.number} left out: {problem.reason}", markup=False, soft_wrap=True)
    record = record_of(model, asdict(settings), settings.seed, facts.sha256)
    diagnosis = diagnosed(model, console, fingerprint=record.model_fingerprint)
    record = record.with_(doctor=diagnosis.verdict)
    with Store.create_or_resume(folder, record) as store, _progress(console) as progress:
        diagnosis.tell(console)
        before = store.statuses()
        if before:
            console.print(f"continuing: {len(before)} rows of {len(facts.facts)} are done", markup=False)
        _trace_with_progress(model, facts, store, settings, memory_gib, progress)
    run = open_run(folder)
    with _progress(console) as progress:
        task = progress.add_task("drawing", total=len(run.traced()))
        pictures = draw_run(run, folder / "pictures", look, lambda: progress.advance(task))
    counts = run.record.counts
    if as_json:
        left_out = [
            {"fact": row["fact"], "status": row["status"], "reason": row["reason"]}
            for row in run
            if row["status"] != "traced"
        ]
        print_json(
            {
                "out": str(folder),
                "counts": counts.model_dump(),
                "doctor": diagnosis.to_dict(),
                "not_traced": left_out,
                "pictures": [str(path) for path in pictures],
            }
        )
        return
    out = Console(highlight=False)
    out.print(f"{counts.traced} facts traced, {counts.skipped} skipped, {counts.malformed} malformed")
    out.print(f"results: {folder}/effects.parquet, facts.parquet, run.json", markup=False, soft_wrap=True)
    if pictures:
        out.print(f"pictures: {folder}/pictures", markup=False, soft_wrap=True)
    if counts.skipped or counts.malformed:
        out.print(f"reasons: patchpoint results show {folder}", markup=False, soft_wrap=True)


def _trace_with_progress(
    model: Model,
    facts: FactFile,
    store: Store,
    settings: FactSettings,
    memory_gib: float | None,
    progress: Progress,
) -> None:
    """The bar counts traced facts up to the limit, or all rows where there is none."""
    counted = ("traced",) if settings.limit else ("traced", "skipped")
    at_start = sum(status in counted for status in store.statuses().values())
    task = progress.add_task("tracing", total=settings.limit or len(facts.facts), completed=at_start)
    seen = {"traced": 0, "skipped": 0, "malformed": 0}

    def advance(outcome: Outcome) -> None:
        seen[outcome.status] += 1
        progress.update(
            task,
            advance=outcome.status in counted,
            description=f"tracing ({seen['traced']} traced, {seen['skipped']} skipped)",
        )

    trace_facts(model, facts, store, settings, memory_gib=memory_gib, on_outcome=advance)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal or console.quiet,
    )
