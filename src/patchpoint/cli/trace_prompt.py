"""One prompt traced: a summary in the terminal, results and pictures in a folder when one is given."""

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from patchpoint.engine import Model
from patchpoint.experiments.fact_run import effect_rows, record_of, trace_row
from patchpoint.plots.heatmap import heatmap
from patchpoint.plots.html import trace_html
from patchpoint.plots.labels import visible
from patchpoint.plots.run import Look, trace_picture, write_page
from patchpoint.plots.save import save
from patchpoint.results import Store
from patchpoint.tracing import Trace, trace

from .doctor import diagnosed
from .options import print_json

TOP_SITES = 5


def trace_prompt(
    model: Model,
    prompt: str,
    settings: dict[str, Any],
    memory_gib: float | None,
    folder: Path | None,
    look: Look,
    as_json: bool,
    console: Console,
) -> None:
    """Trace, keep and show one prompt."""
    if folder is None:
        diagnosis = diagnosed(model, console)
        found, paths = _traced(model, prompt, settings, memory_gib, console), []
    else:
        record = record_of(model, {"prompt": prompt, **settings}, settings["seed"], None)
        diagnosis = diagnosed(model, console, fingerprint=record.model_fingerprint)
        record = record.with_(doctor=diagnosis.verdict)
        with Store.create_or_resume(folder, record) as store:
            found = _traced(model, prompt, settings, memory_gib, console)
            if not store.statuses():
                asked = {"fact": 1, "prompt": prompt, "subject": settings["subject"], "status": "traced"}
                attribute = settings["answer"] or found.answer.strip()
                store.write({**asked, "attribute": attribute, **trace_row(found)}, effect_rows(found))
            store.finish()
        paths = _draw(found, folder, look)
    diagnosis.tell(console)
    if as_json:
        out = None if folder is None else str(folder)
        print_json({**found.to_dict(), "out": out, "pictures": paths, "doctor": diagnosis.to_dict()})
        return
    _show(found)
    if folder is not None:
        console.print(f"results and pictures in {folder}", markup=False, soft_wrap=True)


def _traced(
    model: Model, prompt: str, settings: dict[str, Any], memory_gib: float | None, console: Console
) -> Trace:
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("tracing", total=None)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        return trace(model, prompt, **settings, memory_gib=memory_gib, progress=advance)


def _draw(found: Trace, folder: Path, look: Look) -> list[str]:
    picture = trace_picture(found)
    figure = heatmap(picture, style=look.style)
    paths = [save(figure, folder / f"trace.{name}") for name in look.formats if name != "html"]
    if "html" in look.formats:
        paths.append(write_page(folder / "trace.html", trace_html(picture)))
    return [str(path) for path in paths]


def _show(found: Trace) -> None:
    """The clean and the corrupted run, and the sites with the largest effects."""
    out = Console(highlight=False)
    out.print(
        f"answer {visible(found.answer)}: {found.settings['metric']} {found.p_clean:.4f} clean, "
        f"{found.p_corrupt:.4f} corrupted",
        markup=False,
    )
    table = Table("token", "layer", "effect", "standard error", title="largest indirect effects")
    effect, error = found.effect.values, found.effect_se.values
    largest = np.argsort(-np.abs(effect), axis=None)[:TOP_SITES]
    for token, layer in zip(*np.unravel_index(largest, effect.shape), strict=True):
        label = Text(f"{token} {visible(found.starred_tokens[token])}")
        table.add_row(label, str(layer), f"{effect[token, layer]:+.4f}", f"{error[token, layer]:.4f}")
    out.print(table)
