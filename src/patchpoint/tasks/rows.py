"""Rows of files people bring: JSON lists, JSON lines and CSV, each broken row named and the others kept."""

import csv
import hashlib
import io
import itertools
import json
import os
import reprlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from patchpoint.errors import PatchpointError


@dataclass(frozen=True)
class FileKind:
    """What a file is to be, for its messages: `what` it is called, `expected` of it, the error raised.

    A CSV file must have each of `columns` once.
    """

    what: str
    expected: str
    columns: tuple[str, ...]
    error: type[PatchpointError]


@dataclass(frozen=True)
class Broken:
    """A row that its format's own parser refuses."""

    reason: str


@dataclass(frozen=True)
class Fields:
    """A CSV row: values are text, so numbers are read out of it."""

    values: dict[str, str]


@dataclass(frozen=True)
class RowFile:
    """Rows in file order: JSON values as they are, `Fields`, or `Broken`; and the SHA-256 of the file's bytes."""

    rows: tuple[object, ...]
    path: Path
    sha256: str


def read_rows(path: str | os.PathLike[str], kind: FileKind) -> RowFile:
    """Read a JSON list, JSON lines or CSV, UTF-8 with or without BOM; blank lines are not rows.

    Raises the kind's error when the file as a whole cannot be used.
    """
    path = Path(path)
    data = _bytes(path, kind)
    text = _text(path, data, kind)
    rows = _format(path, text, kind)(path, text, kind)
    return RowFile(tuple(rows), path, hashlib.sha256(data).hexdigest())


_BRIEF = reprlib.Repr()
_BRIEF.maxstring = 60


def short(value: object) -> str:
    """A value on one line, cut to a length that fits a message."""
    text = _BRIEF.repr(value)
    return text if len(text) <= 100 else text[:97] + "..."


def text_fault(name: str, value: str) -> str | None:
    """Why a field is no text to be used, or None."""
    if not value.strip():
        return f"{name} is empty; give its text"
    try:
        value.encode()
    except UnicodeEncodeError:
        return f"{name} {short(value)} holds half of a surrogate pair, which is no character"
    return None


def _json(text: str) -> object:
    """A JSON document, or what is wrong with it."""
    try:
        value: object = json.loads(text)
    except json.JSONDecodeError as error:
        return Broken(f"not valid JSON: {error.msg} at line {error.lineno} column {error.colno}")
    except (ValueError, RecursionError):
        return Broken("not usable JSON: a number of thousands of digits, or lists nested too deep")
    return value


def _json_list(path: Path, text: str, kind: FileKind) -> Iterator[object]:
    value = _json(text)
    if isinstance(value, Broken):
        _refuse(path, value.reason, kind)
    if not isinstance(value, list):
        _refuse(path, f"its JSON is not a list but {short(value)}", kind)
    return iter(value)


def _json_lines(_path: Path, text: str, _kind: FileKind) -> Iterator[object]:
    # Only line feeds end a line: U+2028 and its like may stand inside a JSON string.
    return (_json(line) for line in text.split("\n") if line.strip())


def _csv(path: Path, text: str, kind: FileKind) -> Iterator[object]:
    records = _records(text)
    header = next(records)
    if isinstance(header, Broken):
        _refuse(path, f"its first line is {header.reason}", kind)
    names = [name.strip() for name in header]
    wanted = [name for name in kind.columns if names.count(name) != 1]
    if wanted:
        _refuse(path, f"column {', '.join(wanted)} must be there once; found {short(', '.join(names))}", kind)
    return (_csv_row(names, record) for record in records)


def _csv_row(names: list[str], record: list[str] | Broken) -> object:
    if isinstance(record, Broken):
        return record
    if len(record) != len(names):
        return Broken(f"expected {len(names)} columns as in the header, got {len(record)}")
    return Fields(dict(zip(names, record, strict=True)))


def _records(text: str) -> Iterator[list[str] | Broken]:
    """CSV records. One that breaks the quoting rules costs its own first line, not the rest of the file."""
    lines = list(io.StringIO(text, newline=""))
    before = csv.field_size_limit()
    start = 0
    found: list[list[str] | Broken] = []
    csv.field_size_limit(max(before, len(text)))
    try:
        while start < len(lines):
            reader = csv.reader(itertools.islice(lines, start, None), strict=True)
            read = 0
            try:
                for record in reader:
                    read = reader.line_num
                    if record:
                        found.append(record)
                break
            except csv.Error as error:
                found.append(Broken(f"not valid CSV: {error}"))
                start += read + 1
    finally:
        csv.field_size_limit(before)
    return iter(found)


Reader = Callable[[Path, str, FileKind], Iterator[object]]
READERS: dict[str, Reader] = {
    ".json": _json_list,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".csv": _csv,
}
OPENINGS: dict[str, Reader] = {"[": _json_list, "{": _json_lines}


def _format(path: Path, text: str, kind: FileKind) -> Reader:
    """By the file's suffix, else by how it begins; lines of JSON are often kept in files called .json."""
    by_name = READERS.get(path.suffix.lower())
    by_content = OPENINGS.get(text.lstrip()[:1])
    if by_name is _json_list:
        return by_content or by_name
    found = by_name or by_content
    if found is None and "," in text.lstrip().partition("\n")[0]:
        found = _csv
    if found is None:
        _refuse(path, f"unknown format, it begins with {short(text.lstrip())}", kind)
    return found


def _bytes(path: Path, kind: FileKind) -> bytes:
    try:
        if path.exists() and not path.is_file():
            _refuse(path, "it is a folder or a device, not a file", kind)
        return path.read_bytes()
    except FileNotFoundError as error:
        raise kind.error(f"no file {str(path)!r}; give the path of a {kind.what}: {kind.expected}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise kind.error(
            f"cannot read {str(path)!r}: {reason}; check the path and its permissions"
        ) from error


def _text(path: Path, data: bytes, kind: FileKind) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = f"byte {data[error.start]:#04x} at offset {error.start}"
        _refuse(path, f"not UTF-8 ({byte}); save it as UTF-8", kind)
    if not text.strip():
        _refuse(path, "it is empty", kind)
    return text


def _refuse(path: Path, why: str, kind: FileKind) -> NoReturn:
    raise kind.error(f"cannot use {str(path)!r} as a {kind.what}: {why}; expected {kind.expected}")
