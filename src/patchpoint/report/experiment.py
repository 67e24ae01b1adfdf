"""An experiment on disk: its tables, figures, a book of heatmaps, and a page that shows them."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from matplotlib.figure import Figure

from patchpoint.experiments import Result
from patchpoint.experiments.catalogue import EXPERIMENTS, Experiment
from patchpoint.plots.book import save_book
from patchpoint.plots.measures import measure_page
from patchpoint.plots.run import write_page
from patchpoint.plots.save import save

from .figures import about, averages_of, own_pictures
from .frames import tables_of
from .page import Drawn, Entry, Section, experiment_page, index_page
from .tables import Table, write_table

PAGE = "index.html"
BOOK = "heatmaps.pdf"
ROWS_SHOWN = 120
"""Tables with more rows are files only."""
OWN_SHOWN = 6
"""Figures of an experiment's own that its page shows; all are files."""


@dataclass(frozen=True, eq=False)
class Made:
    """What was written for an experiment."""

    name: str
    result: Result
    page: Path
    tables: tuple[Table, ...]
    files: tuple[Path, ...]


def write_experiment(
    experiment: Experiment, result: Result, out: Path, formats: Sequence[str], command: str, call: str
) -> Made:
    """Write an experiment's files into a folder of its name in `out`. Raises ResultsError.

    Tables as CSV and LaTeX; figures in `formats` (png, svg, pdf); one multi-page PDF with every fact's heatmaps
    under every condition; and a page that shows all of it. `command` and `call` are how to get the same again.
    """
    folder = out / experiment.name
    folder.mkdir(parents=True, exist_ok=True)
    tables = tuple(tables_of(result))
    files = [path for table in tables for path in write_table(table.frame, folder, table.name, table.caption)]
    drawn: list[Drawn] = []
    average: list[Drawn] = []
    for place, pictures in ((drawn, own_pictures(experiment.name, result)), (average, averages_of(result))):
        for picture in pictures:
            paths = [save(picture.figure, folder / f"{picture.name}.{name}") for name in formats]
            files += paths
            names = tuple(path.name for path in paths)
            place.append(Drawn(figure=picture.figure, alt=picture.words, files=names))
    if result.conditions:
        files.append(save_book(_pages(result), folder / BOOK))
    sections = list(_sections(tables, drawn[:OWN_SHOWN], average))
    page = experiment_page(
        title=experiment.name,
        question=experiment.question,
        source=experiment.source,
        command=command,
        call=call,
        settings=_settings(result),
        sections=sections,
        files=[path.name for path in files],
    )
    files.append(write_page(folder / PAGE, page))
    return Made(experiment.name, result, folder / PAGE, tables, tuple(files))


def write_index(out: Path) -> Path:
    """The list of the experiments whose pages are in `out`, as a page."""
    entries = [
        Entry(title=one.name, file=f"{one.name}/{PAGE}", line=one.question)
        for one in EXPERIMENTS.values()
        if (out / one.name / PAGE).is_file()
    ]
    return write_page(out / PAGE, index_page(entries))


def _pages(result: Result) -> Iterator[Figure]:
    for name, measured in result.conditions.items():
        said = about(name, measured, 1)
        for grid in measured.grids:
            yield measure_page(grid, said)


def _sections(tables: Sequence[Table], own: Sequence[Drawn], average: Sequence[Drawn]) -> Iterator[Section]:
    """The first table and the experiment's own figures; averages; what other tables are short enough to read."""
    yield Section(title="What was found", tables=tuple(tables[:1]), figures=tuple(own))
    if average:
        text = (
            "Means over every token of a role of every fact; intervals by bootstrap over facts. A prompt's tokens "
            "before its subject belong to no role."
        )
        yield Section(title="Averages by token role", text=text, figures=tuple(average))
    short = tuple(table for table in tables[1:] if len(table.frame) <= ROWS_SHOWN)
    if short:
        yield Section(title="More tables", text="Longer ones are among the files.", tables=short)


def _settings(result: Result) -> dict[str, object]:
    """Settings that all conditions share, and per condition those in which it differs."""
    each = {name: asdict(measured.settings) for name, measured in result.conditions.items()}
    if not each:
        return dict(result.answer)
    models = {measured.model for measured in result.conditions.values()}
    first = next(iter(each.values()))
    shared = {key: value for key, value in first.items() if all(one[key] == value for one in each.values())}
    differs = {
        name: ", ".join(f"{key} {value}" for key, value in one.items() if key not in shared)
        for name, one in each.items()
    }
    counts = {
        f"facts, {name}": f"{len(measured.grids)} traced, {measured.n_skipped} skipped"
        for name, measured in result.conditions.items()
    }
    if len(set(counts.values())) == 1:
        counts = {"facts": next(iter(counts.values()))}
    said = {key: value for key, value in shared.items() if value not in ((), None, False)}
    return {"model": ", ".join(sorted(models)), **said, **{k: v for k, v in differs.items() if v}, **counts}
