"""Files of facts: what a model is asked to recall, one fact per row, read with every bad row named."""

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

from pydantic import BaseModel, ValidationError

from patchpoint.errors import FactError

REQUIRED = ("prompt", "subject", "attribute")
OPTIONAL = ("known_id", "relation_id", "prediction")
EXPECTED = "a JSON list of objects, JSON lines, or CSV with the columns prompt, subject, attribute"


@dataclass(frozen=True)
class Fact:
    """One fact: `prompt` holds `subject` as exact text, and " " + `attribute` is what should follow.

    `number` counts the file's rows from 1 and is the fact's name in results; `known_id` is the file's own,
    `relation_id` names what is said of the subject, `prediction` how a model of the file's went on.
    Raises FactError when the parts do not fit together.
    """

    number: int
    prompt: str
    subject: str
    attribute: str
    known_id: int | None = None
    relation_id: str | None = None
    prediction: str | None = None

    def __post_init__(self) -> None:
        if self.number < 1:
            raise FactError(f"fact number {self.number}: rows count from 1")
        fault = _fault(self.prompt, self.subject, self.attribute)
        if fault:
            raise FactError(f"fact {self.number}: {fault}")


@dataclass(frozen=True)
class Problem:
    """A row that cannot be used: its `number`, counted from 1 as for facts, and the reason in one line."""

    number: int
    reason: str


@dataclass(frozen=True)
class FactFile:
    """The usable facts of a file in file order, its malformed rows, and the SHA-256 of its bytes."""

    facts: tuple[Fact, ...]
    problems: tuple[Problem, ...]
    path: Path
    sha256: str


def read_facts(path: str | os.PathLike[str]) -> FactFile:
    """Read a file of facts: a JSON list (as ROME's known_1000), JSON lines or CSV, UTF-8 with or without BOM.

    Blank lines are not rows. White space around subject and attribute and behind the prompt is dropped, since
    the answer brings its own space; all other text stays as given. Malformed rows become `problems`.
    Raises FactError when the file as a whole cannot be used, or has no usable row.
    """
    path = Path(path)
    data = _bytes(path)
    text = _text(path, data)
    rows = _format(path, text)(path, text)
    facts: list[Fact] = []
    problems: list[Problem] = []
    for number, row in enumerate(rows, start=1):
        found = _fact(number, row)
        if isinstance(found, Fact):
            facts.append(found)
        else:
            problems.append(found)
    if not facts:
        why = f"{len(problems)} malformed; row 1: {problems[0].reason}" if problems else "it holds no rows"
        raise FactError(f"no usable fact in {str(path)!r}: {why}")
    return FactFile(tuple(facts), tuple(problems), path, hashlib.sha256(data).hexdigest())


class _Row(BaseModel):
    prompt: str
    subject: str
    attribute: str
    known_id: int | None = None
    relation_id: str | None = None
    prediction: str | None = None


@dataclass(frozen=True)
class _Broken:
    """A row that its format's own parser refuses."""

    reason: str


@dataclass(frozen=True)
class _Fields:
    """A CSV row: values are text, so numbers are read out of it."""

    values: dict[str, str]


def _fact(number: int, row: object) -> Fact | Problem:
    if isinstance(row, _Broken):
        return Problem(number, row.reason)
    strict = not isinstance(row, _Fields)
    values = row.values if isinstance(row, _Fields) else row
    if not isinstance(values, dict):
        return Problem(number, f"expected an object with {', '.join(REQUIRED)}; got {_short(values)}")
    try:
        valid = _Row.model_validate(values, strict=strict)
    except ValidationError as error:
        faults = (_wrong(e["type"], str(e["loc"][0]), e["input"]) for e in error.errors())
        return Problem(number, "; ".join(faults))
    prompt, subject, attribute = valid.prompt.rstrip(), valid.subject.strip(), valid.attribute.strip()
    fault = _fault(prompt, subject, attribute)
    if fault:
        return Problem(number, fault)
    return Fact(number, prompt, subject, attribute, valid.known_id, valid.relation_id, valid.prediction)


def _fault(prompt: str, subject: str, attribute: str) -> str | None:
    """Why the three texts make no fact, or None."""
    for name, value in (("prompt", prompt), ("subject", subject), ("attribute", attribute)):
        if not value.strip():
            return f"{name} is empty; give its text"
        try:
            value.encode()
        except UnicodeEncodeError:
            return f"{name} {_short(value)} holds half of a surrogate pair, which is no character"
    if prompt != prompt.rstrip():
        return f"prompt {_short(prompt)} ends in white space; leave it out, the answer brings its own space"
    if subject not in prompt:
        return f"subject {_short(subject)} is not in the prompt {_short(prompt)}; give the exact text"
    return None


def _wrong(kind: str, name: str, got: object) -> str:
    if kind == "missing":
        return f"{name} is missing"
    wanted = "a whole number" if name == "known_id" else "text"
    return f"{name} must be {wanted}, got {_short(got)}"


_BRIEF = reprlib.Repr()
_BRIEF.maxstring = 60


def _short(value: object) -> str:
    """A value on one line, cut to a length that fits a message."""
    text = _BRIEF.repr(value)
    return text if len(text) <= 100 else text[:97] + "..."


def _json(text: str) -> object:
    """A JSON document, or what is wrong with it."""
    try:
        value: object = json.loads(text)
    except json.JSONDecodeError as error:
        return _Broken(f"not valid JSON: {error.msg} at line {error.lineno} column {error.colno}")
    except (ValueError, RecursionError):
        return _Broken("not usable JSON: a number of thousands of digits, or lists nested too deep")
    return value


def _json_list(path: Path, text: str) -> Iterator[object]:
    value = _json(text)
    if isinstance(value, _Broken):
        _refuse(path, value.reason)
    if not isinstance(value, list):
        _refuse(path, f"its JSON is not a list but {_short(value)}")
    return iter(value)


def _json_lines(_path: Path, text: str) -> Iterator[object]:
    # Only line feeds end a line: U+2028 and its like may stand inside a JSON string.
    return (_json(line) for line in text.split("\n") if line.strip())


def _csv(path: Path, text: str) -> Iterator[object]:
    records = _records(text)
    header = next(records)
    if isinstance(header, _Broken):
        _refuse(path, f"its first line is {header.reason}")
    names = [name.strip() for name in header]
    wanted = [name for name in REQUIRED if names.count(name) != 1]
    if wanted:
        _refuse(path, f"column {', '.join(wanted)} must be there once; found {_short(', '.join(names))}")
    return (_csv_row(names, record) for record in records)


def _csv_row(names: list[str], record: "list[str] | _Broken") -> object:
    if isinstance(record, _Broken):
        return record
    if len(record) != len(names):
        return _Broken(f"expected {len(names)} columns as in the header, got {len(record)}")
    values = dict(zip(names, record, strict=True))
    chosen = {name: values[name] for name in REQUIRED}
    chosen |= {name: values[name] for name in OPTIONAL if values.get(name, "").strip()}
    return _Fields(chosen)


def _records(text: str) -> "Iterator[list[str] | _Broken]":
    """CSV records. One that breaks the quoting rules costs its own first line, not the rest of the file."""
    lines = list(io.StringIO(text, newline=""))
    before = csv.field_size_limit()
    start = 0
    found: list[list[str] | _Broken] = []
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
                found.append(_Broken(f"not valid CSV: {error}"))
                start += read + 1
    finally:
        csv.field_size_limit(before)
    return iter(found)


Reader = Callable[[Path, str], Iterator[object]]
READERS: dict[str, Reader] = {
    ".json": _json_list,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".csv": _csv,
}
OPENINGS: dict[str, Reader] = {"[": _json_list, "{": _json_lines}


def _format(path: Path, text: str) -> Reader:
    """By the file's suffix, else by how it begins; lines of JSON are often kept in files called .json."""
    by_name = READERS.get(path.suffix.lower())
    by_content = OPENINGS.get(text.lstrip()[:1])
    if by_name is _json_list:
        return by_content or by_name
    found = by_name or by_content
    if found is None and "," in text.lstrip().partition("\n")[0]:
        found = _csv
    if found is None:
        _refuse(path, f"unknown format, it begins with {_short(text.lstrip())}")
    return found


def _bytes(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            _refuse(path, "it is a folder or a device, not a file")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise FactError(f"no file {str(path)!r}; give the path of a file of facts: {EXPECTED}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FactError(f"cannot read {str(path)!r}: {reason}; check the path and its permissions") from error


def _text(path: Path, data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        _refuse(path, f"not UTF-8 (byte {data[error.start]:#04x} at offset {error.start}); save it as UTF-8")
    if not text.strip():
        _refuse(path, "it is empty")
    return text


def _refuse(path: Path, why: str) -> NoReturn:
    raise FactError(f"cannot use {str(path)!r} as a file of facts: {why}; expected {EXPECTED}")
