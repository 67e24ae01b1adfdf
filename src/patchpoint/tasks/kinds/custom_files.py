"""Files of prompts that people bring: finished pairs, or rows of values for the slots of a template."""

import json
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from patchpoint.errors import PromptError
from patchpoint.models.tokens import continuation
from patchpoint.tasks.case import Value
from patchpoint.tasks.rows import Broken, Fields, FileKind, read_rows, short, text_fault

PAIR_COLUMNS = ("clean", "corrupt", "correct", "incorrect", "group")
MOST_FAULTS, MOST_NUMBERS = 20, 10
Record = Mapping[str, object]


@dataclass(frozen=True)
class PairRow:
    """One prompt of a file, its answers as they follow the clean text; None for what the file leaves open.

    Raises PromptError when the parts do not fit together.
    """

    clean: str
    corrupt: str | None
    correct: str
    incorrect: str | None
    group: str = ""
    metadata: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        texts = {"clean": self.clean, "corrupt": self.corrupt}
        texts |= {"correct": self.correct, "incorrect": self.incorrect}
        for name, text in texts.items():
            if text is not None and (fault := text_fault(name, text)):
                raise PromptError(fault)
        if self.corrupt == self.clean:
            raise PromptError(
                f"corrupt is the same as clean, {short(self.clean)}; change what the answer needs"
            )
        if self.incorrect == self.correct:
            raise PromptError(f"incorrect is the same as correct, {short(self.correct)}; give another answer")


@dataclass(frozen=True)
class ValueRow:
    """The columns of one row as texts, and its group."""

    values: Mapping[str, str]
    group: str = ""


def read_pairs(path: str | os.PathLike[str]) -> tuple[PairRow, ...]:
    """Rows with the columns clean and correct, and perhaps corrupt, incorrect and group; others are metadata.

    Either every row has corrupt, or none. White space at the ends of texts is dropped, and an answer that begins
    without it is put behind one space; a file that `Prompts.save` wrote is taken as it is. Raises PromptError, with
    every bad row, or for the file.
    """
    kind = _kind(("clean", "correct"))
    records, faults, saved = _records(path, kind)
    paired = any(row.get("corrupt") is not None for row in records.values())
    found = _made(path, kind, records, faults, _saved if saved else partial(_pair, paired=paired))
    if len({row.correct for row in found}) < 2 and any(row.incorrect is None for row in found):
        raise PromptError(
            f"{str(path)!r}: every row has the same correct answer {short(found[0].correct)}, so no other row's "
            "can be the incorrect one; give a column incorrect"
        )
    return found


def read_values(path: str | os.PathLike[str], columns: tuple[str, ...]) -> tuple[ValueRow, ...]:
    """Rows whose `columns` all have text; further columns are kept where they have text or numbers.

    Raises PromptError, with every bad row, or for the file.
    """
    kind = _kind(columns)
    records, faults, _ = _records(path, kind)

    def make(row: Record) -> ValueRow:
        values = {name: _filled(row, name).strip() for name in columns}
        others = {name: text.strip() for name, value in row.items() if (text := _text(value)) is not None}
        group = others.get("group", "") if "group" not in columns else ""
        return ValueRow({**others, **values}, group)

    return _made(path, kind, records, faults, make)


def _kind(columns: tuple[str, ...]) -> FileKind:
    names = ", ".join(columns)
    return FileKind(
        "file of prompts", f"a JSON list of objects, JSON lines, or CSV with {names}", columns, PromptError
    )


def _records(path: str | os.PathLike[str], kind: FileKind) -> tuple[dict[int, Record], dict[int, str], bool]:
    """Rows by number, reasons of those that are none, and whether `Prompts.save` wrote the file."""
    rows = read_rows(path, kind).rows
    saved = isinstance(rows[0], dict) and rows[0].get("patchpoint") == "prompts" if rows else False
    records: dict[int, Record] = {}
    faults: dict[int, str] = {}
    for number, row in enumerate(rows[1:] if saved else rows, start=1):
        if isinstance(row, Broken):
            faults[number] = row.reason
        elif isinstance(row, Fields):
            records[number] = {name: text if text.strip() else None for name, text in row.values.items()}
        elif isinstance(row, dict):
            records[number] = row
        else:
            faults[number] = f"expected an object with {', '.join(kind.columns)}; got {short(row)}"
    return records, faults, saved


Made = TypeVar("Made", PairRow, ValueRow)


def _made(
    path: str | os.PathLike[str],
    kind: FileKind,
    records: Mapping[int, Record],
    faults: dict[int, str],
    make: Callable[[Record], Made],
) -> tuple[Made, ...]:
    found = []
    for number, row in records.items():
        try:
            found.append(make(row))
        except PromptError as error:
            faults[number] = str(error)
    if faults:
        raise PromptError(
            f"cannot use {str(Path(path))!r} as a {kind.what}: {_told(faults)}; mend these rows or take them out"
        )
    if not found:
        raise PromptError(
            f"cannot use {str(Path(path))!r} as a {kind.what}: it holds no rows; expected {kind.expected}"
        )
    return tuple(found)


def _told(faults: Mapping[int, str]) -> str:
    """All faults on one line, rows with the same one together."""
    by_reason: dict[str, list[int]] = {}
    for number in sorted(faults):
        by_reason.setdefault(faults[number], []).append(number)
    told = [f"{_numbers(rows)}: {reason}" for reason, rows in list(by_reason.items())[:MOST_FAULTS]]
    if len(by_reason) > MOST_FAULTS:
        rest = [row for rows in list(by_reason.values())[MOST_FAULTS:] for row in rows]
        told.append(f"other faults in {_numbers(rest)}")
    return "; ".join(told)


def _numbers(rows: Collection[int]) -> str:
    ordered = sorted(rows)
    more = f" and {len(ordered) - MOST_NUMBERS} more" if len(ordered) > MOST_NUMBERS else ""
    return f"row{'s' if len(ordered) > 1 else ''} {', '.join(map(str, ordered[:MOST_NUMBERS]))}{more}"


def _pair(row: Record, *, paired: bool) -> PairRow:
    clean, correct = _filled(row, "clean").rstrip(), _filled(row, "correct").rstrip()
    incorrect = None if row.get("incorrect") is None else _filled(row, "incorrect").rstrip()
    return PairRow(
        clean=clean,
        corrupt=_filled(row, "corrupt").rstrip() if paired else None,
        correct=continuation(clean, correct),
        incorrect=None if incorrect is None else continuation(clean, incorrect),
        group=_text(row.get("group")) or "",
        metadata=_values({name: value for name, value in row.items() if name not in PAIR_COLUMNS}),
    )


def _saved(row: Record) -> PairRow:
    told = row.get("metadata")
    return PairRow(
        clean=_filled(row, "clean"),
        corrupt=_filled(row, "corrupt"),
        correct=_filled(row, "correct"),
        incorrect=_filled(row, "incorrect"),
        group=_text(row.get("group")) or "",
        metadata=_values(told if isinstance(told, dict) else {}),
    )


def _filled(row: Record, name: str) -> str:
    """The text of a column that must have one."""
    value = row.get(name)
    if value is None:
        raise PromptError(f"{name} is missing")
    text = _text(value)
    if text is None:
        raise PromptError(f"{name} must be text, got {short(value)}")
    if fault := text_fault(name, text):
        raise PromptError(fault)
    return text


def _text(value: object) -> str | None:
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _values(row: Record) -> dict[str, Value]:
    """Columns as metadata: numbers and texts as they are, anything else as JSON."""
    return {
        name: value if isinstance(value, str | int | float) else json.dumps(value, ensure_ascii=False)
        for name, value in row.items()
        if value is not None
    }
