"""What `patchpoint task` leaves in a folder: the candidates' scores as a table and as histograms."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from patchpoint.errors import ResultsError, UnknownName
from patchpoint.plots.save import FORMATS, save
from patchpoint.plots.screening import screening_figure
from patchpoint.tasks.screening import Report

COLUMNS = ("text", "group", "rank", "prob", "prob_incorrect", "logit_diff", "accepted")


def check_formats(formats: Iterable[str]) -> None:
    """UnknownName for a format that histograms are not drawn in."""
    known = tuple(suffix.removeprefix(".") for suffix in FORMATS)
    for name in formats:
        if name not in known:
            raise UnknownName("picture format", name, known)


def made_folder(folder: Path) -> Path:
    """The folder, made where it is missing. Raises ResultsError when it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except (OSError, ValueError) as error:
        raise ResultsError(
            f"cannot write to the folder {str(folder)!r}: {_why(error)}; choose another --out"
        ) from error
    return folder


def write_screening(report: Report, folder: Path, stem: str, formats: Sequence[str]) -> list[Path]:
    """The scores of a report's candidates as CSV and, where there are any, as histograms; returns the paths."""
    scores = report.scores
    rows = zip(
        *(report.texts, report.groups, scores.rank.tolist(), scores.prob.tolist()),
        *(scores.prob_incorrect.tolist(), scores.logit_diff.tolist(), report.accepted.tolist()),
        strict=True,
    )
    paths = [write_table(folder / f"{stem}.csv", COLUMNS, rows)]
    if report.n_candidates:
        figure = screening_figure(report)
        paths += [save(figure, folder / f"{stem}.{name}") for name in formats]
    return paths


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    """A CSV file, its folder made where missing. Raises ResultsError when it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(columns)
            table.writerows(rows)
    except (OSError, ValueError) as error:
        raise ResultsError(f"cannot write {str(path)!r}: {_why(error)}; choose another --out") from error
    return path


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
