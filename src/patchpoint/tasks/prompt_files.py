"""Prompts on disk: JSON lines that people and other programs can read, a header first."""

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from patchpoint.errors import ResultsError

from .alignment import Pair, Span
from .whole_file import write_whole


class Header(BaseModel):
    """Where prompts come from. `candidates`, `accepted` and `dropped` tell how they were screened."""

    model_config = ConfigDict(frozen=True)

    patchpoint: Literal["prompts"] = "prompts"
    version: Literal[1] = 1
    task: str
    corruption: str | None
    seed: int | None
    model: str
    tokenizer_fingerprint: str
    bos: bool
    ratio: float | None = None
    candidates: int | None = None
    accepted: int | None = None
    dropped: dict[str, int] = {}


class Row(BaseModel):
    """One prompt: texts, answers as they follow the clean text, ids and texts of tokens, spans by role."""

    model_config = ConfigDict(frozen=True)

    clean: str
    corrupt: str
    correct: str
    incorrect: str
    group: str
    clean_ids: tuple[int, ...]
    corrupt_ids: tuple[int, ...]
    clean_tokens: tuple[str, ...]
    corrupt_tokens: tuple[str, ...]
    correct_set: tuple[int, ...]
    incorrect_set: tuple[int, ...]
    spans: dict[str, Span]
    corrupted_roles: tuple[str, ...]
    metadata: dict[str, str | int | float]

    def pair(self) -> Pair:
        """The aligned pair that it was written from."""
        return Pair(
            (self.clean, self.corrupt),
            (self.correct, self.incorrect),
            self.clean_ids,
            self.corrupt_ids,
            self.correct_set[0],
            self.incorrect_set[0],
            self.correct_set,
            self.incorrect_set,
            self.spans,
            self.corrupted_roles,
            (),
            0,
        )


def write_prompts(path: str | os.PathLike[str], header: Header, rows: list[Row]) -> None:
    """A whole file or none. ResultsError when it cannot be written."""
    lines = [header.model_dump_json(), *(row.model_dump_json() for row in rows)]
    write_whole(Path(path), "".join(f"{line}\n" for line in lines))


def read_prompts(path: str | os.PathLike[str]) -> tuple[Header, list[Row]]:
    """Header and rows of a file of prompts. ResultsError for anything else."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ResultsError(
            f"cannot read {str(path)!r}: {error.strerror or error}; give a file of prompts"
        ) from None
    except UnicodeDecodeError:
        raise ResultsError(f"{str(path)!r} is not UTF-8 text, so no file of prompts") from None
    first, *rest = [line for line in text.split("\n") if line.strip()] or [""]
    try:
        header = Header.model_validate_json(first)
    except ValidationError:
        raise ResultsError(
            f"{str(path)!r} is no file of prompts of version 1: its first line is no header; prompts of "
            "your own go through the task 'custom'"
        ) from None
    rows = [_row(path, number, line) for number, line in enumerate(rest, start=2)]
    if not rows:
        raise ResultsError(f"{str(path)!r} holds no prompts")
    return header, rows


def _row(path: Path, number: int, line: str) -> Row:
    try:
        row = Row.model_validate_json(line)
    except ValidationError as error:
        what = error.errors()[0]
        where = ".".join(map(str, what["loc"])) or "the line"
        raise ResultsError(f"{str(path)!r}, line {number}: {where}: {what['msg']}") from None
    fault = _fault(row)
    if fault:
        raise ResultsError(f"{str(path)!r}, line {number}: {fault}")
    return row


def _fault(row: Row) -> str | None:
    n = len(row.clean_ids)
    if not n or {len(row.corrupt_ids), len(row.clean_tokens), len(row.corrupt_tokens)} != {n}:
        return "clean and corrupted prompt need the same number of tokens, at least one"
    if not row.correct_set or not row.incorrect_set:
        return "correct_set and incorrect_set need at least one token each"
    if any(not 0 <= start < stop <= n for start, stop in row.spans.values()):
        return f"a span is outside of the prompt's {n} tokens"
    return None
