"""Files of facts: what a model is asked to recall, one fact per row, read with every bad row named."""

import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from patchpoint.errors import FactError

from .rows import Broken, Fields, FileKind, read_rows, short, text_fault

REQUIRED = ("prompt", "subject", "attribute")
OPTIONAL = ("known_id", "relation_id", "prediction")
KIND = FileKind(
    "file of facts",
    "a JSON list of objects, JSON lines, or CSV with the columns prompt, subject, attribute",
    REQUIRED,
    FactError,
)


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
    file = read_rows(path, KIND)
    facts: list[Fact] = []
    problems: list[Problem] = []
    for number, row in enumerate(file.rows, start=1):
        found = _fact(number, row)
        if isinstance(found, Fact):
            facts.append(found)
        else:
            problems.append(found)
    if not facts:
        why = f"{len(problems)} malformed; row 1: {problems[0].reason}" if problems else "it holds no rows"
        raise FactError(f"no usable fact in {str(file.path)!r}: {why}")
    return FactFile(tuple(facts), tuple(problems), file.path, file.sha256)


class _Row(BaseModel):
    prompt: str
    subject: str
    attribute: str
    known_id: int | None = None
    relation_id: str | None = None
    prediction: str | None = None


def _fact(number: int, row: object) -> Fact | Problem:
    if isinstance(row, Broken):
        return Problem(number, row.reason)
    strict = not isinstance(row, Fields)
    values = _given(row) if isinstance(row, Fields) else row
    if not isinstance(values, dict):
        return Problem(number, f"expected an object with {', '.join(REQUIRED)}; got {short(values)}")
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


def _given(row: Fields) -> dict[str, str]:
    """The columns of a CSV row that facts have; an empty optional one is none."""
    chosen = {name: row.values[name] for name in REQUIRED}
    return chosen | {name: row.values[name] for name in OPTIONAL if row.values.get(name, "").strip()}


def _fault(prompt: str, subject: str, attribute: str) -> str | None:
    """Why the three texts make no fact, or None."""
    for name, value in (("prompt", prompt), ("subject", subject), ("attribute", attribute)):
        if fault := text_fault(name, value):
            return fault
    if prompt != prompt.rstrip():
        return f"prompt {short(prompt)} ends in white space; leave it out, the answer brings its own space"
    if subject not in prompt:
        return f"subject {short(subject)} is not in the prompt {short(prompt)}; give the exact text"
    return None


def _wrong(kind: str, name: str, got: object) -> str:
    if kind == "missing":
        return f"{name} is missing"
    wanted = "a whole number" if name == "known_id" else "text"
    return f"{name} must be {wanted}, got {short(got)}"
