"""Reading a run back, finished or not, and asking it questions in SQL."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xarray as xr

from patchpoint.errors import InvalidArgument, ResultsError, UnknownName

from .parts import read_parts
from .provenance import RunRecord, read_record
from .schema import EFFECTS_SCHEMA, FACTS_SCHEMA
from .store import EFFECTS_FILE, FACTS_FILE, damage

MEASURES = ("effect", "effect_se", "p_restored")


@dataclass(frozen=True)
class SavedRun:
    """A run on disk: its `record`, and the tables `facts` and `effects` (see `schema`), by fact number.

    Of a run that is not finished, the facts done so far. Iterating gives the facts' rows as mappings.
    """

    folder: Path
    record: RunRecord
    facts: pa.Table
    effects: pa.Table

    def __len__(self) -> int:
        return int(self.facts.num_rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.facts.to_pylist())

    def traced(self) -> tuple[int, ...]:
        """Numbers of the facts that have effects, in order."""
        return tuple(self._rows)

    def fact(self, number: int) -> Mapping[str, Any]:
        """The facts row of a fact. Raises InvalidArgument when the run has no such fact."""
        if number not in self._index:
            raise InvalidArgument(f"the run in {str(self.folder)!r} has no fact {number}; {self._range()}")
        row: dict[str, Any] = self.facts.slice(self._index[number], 1).to_pylist()[0]
        return row

    def tokens(self, number: int) -> list[str]:
        """The tokens of a fact's prompt, a `*` behind each subject token. Raises InvalidArgument."""
        row = self.fact(number)
        start, stop = row["subject_start"] or 0, row["subject_stop"] or 0
        return [t + "*" if start <= i < stop else t for i, t in enumerate(row["tokens"] or [])]

    def effect(self, number: int) -> xr.DataArray:
        """Indirect effects of one fact in the run's metric, shape (token, layer); NaN where not measured.

        Raises InvalidArgument when the fact is unknown or was not traced.
        """
        return self.measure(number, "effect")

    def measure(self, number: int, name: str) -> xr.DataArray:
        """`effect`, `effect_se` or `p_restored` of one fact, shape (token, layer); NaN where not measured.

        The coordinate `text` holds the tokens, subject tokens starred. Raises InvalidArgument, UnknownName.
        """
        if name not in MEASURES:
            raise UnknownName("measure", name, MEASURES)
        return self._places(number, name, np.float32(np.nan))

    def exact(self, number: int) -> xr.DataArray:
        """Whether each value of one fact was measured, bool of shape (token, layer); False where it is an
        estimate, or not there. Raises InvalidArgument when the fact is unknown or was not traced.
        """
        return self._places(number, "exact", np.bool_(False))

    def require_model(self, model_fingerprint: str, tokenizer_fingerprint: str) -> None:
        """Raise ResultsError when these results came from another model or tokenizer than these."""
        pairs = (
            ("model", self.record.model_fingerprint, model_fingerprint),
            ("tokenizer", self.record.tokenizer_fingerprint, tokenizer_fingerprint),
        )
        for what, saved, now in pairs:
            if saved != now:
                raise ResultsError(
                    f"the results in {str(self.folder)!r} were made with {self.record.model}, "
                    f"{what} {saved}; got {what} {now}; load the one they were made with"
                )

    def _places(self, number: int, column: str, absent: np.generic) -> xr.DataArray:
        """A column of one fact's effects as an array of the kind of `absent`, which fills the gaps."""
        row = self.fact(number)
        if number not in self._rows:
            raise InvalidArgument(f"fact {number} has no effects: it is {row['status']}, {row['reason']}")
        part = self.effects.slice(*self._rows[number])
        text = self.tokens(number)
        values = np.full((len(text), self._layers), absent)
        values[part["token"].to_numpy(), part["layer"].to_numpy()] = part[column].to_numpy()
        coords = {"token": range(len(text)), "layer": range(self._layers), "text": ("token", text)}
        return xr.DataArray(values, coords, ("token", "layer"), column)

    @cached_property
    def _index(self) -> dict[int, int]:
        return {number: row for row, number in enumerate(self.facts["fact"].to_pylist())}

    @cached_property
    def _rows(self) -> dict[int, tuple[int, int]]:
        """Offset and length of each fact's effects, which lie together."""
        numbers, starts, lengths = np.unique(
            self.effects["fact"].to_numpy(), return_index=True, return_counts=True
        )
        rows = zip(starts.tolist(), lengths.tolist(), strict=True)
        return dict(zip(numbers.tolist(), rows, strict=True))

    @cached_property
    def _layers(self) -> int:
        return int(self.effects["layer"].to_numpy().max()) + 1

    def _range(self) -> str:
        return f"facts {min(self._index)} to {max(self._index)}" if self._index else "it has no facts yet"


def open_run(folder: str | os.PathLike[str]) -> SavedRun:
    """Open a results folder for reading; writes nothing, and may be used while the run is going on.

    Raises ResultsError when it holds no run, or a finished run whose files are not as they were written.
    """
    folder = Path(folder)
    record = read_record(folder)
    if record.status != "finished":
        tables = _unfinished(folder)
        # A run that finishes meanwhile takes its parts away.
        record = read_record(folder)
        if record.status != "finished":
            return SavedRun(folder, record, *tables)
    wrong = damage(folder, record)
    if wrong is not None:
        raise ResultsError(f"{wrong}; restore the file, or delete the folder and run again")
    try:
        return SavedRun(folder, record, _table(folder / FACTS_FILE), _table(folder / EFFECTS_FILE))
    except (OSError, pa.ArrowException) as error:
        raise ResultsError(f"cannot read the tables in {str(folder)!r}: {_line(error)}") from error


@dataclass(frozen=True)
class Answer:
    """Column names and rows of a query."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def query(folder: str | os.PathLike[str], sql: str) -> Answer:
    """Run SQL (DuckDB) over the tables `effects` and `facts` of a run; it reaches no other file or network.

    Raises ResultsError with DuckDB's complaint in one line.
    """
    saved = open_run(folder)
    with duckdb.connect(":memory:", config={"enable_external_access": "false"}) as connection:
        connection.register("effects", saved.effects)
        connection.register("facts", saved.facts)
        connection.execute("SET lock_configuration = true")
        try:
            result = connection.execute(sql)
            if result is None or result.description is None:
                raise ResultsError("the query is empty; give SQL over the tables effects and facts")
            return Answer(tuple(column[0] for column in result.description), tuple(result.fetchall()))
        except (duckdb.Error, pa.ArrowException, ValueError, RuntimeError) as error:
            raise ResultsError(f"the query failed: {_line(error)}") from error


def _table(path: Path) -> pa.Table:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        return file.read()


def _unfinished(folder: Path) -> tuple[pa.Table, pa.Table]:
    try:
        # A part that a crash damaged is computed again when the run continues; until then it is not there.
        parts = list(read_parts(folder, on_damage=lambda _path: None))
    except OSError as error:
        raise ResultsError(f"cannot read the parts in {str(folder)!r}: {_line(error)}") from error
    facts = pa.concat_tables([FACTS_SCHEMA.empty_table(), *(facts for facts, _ in parts)])
    effects = pa.concat_tables([EFFECTS_SCHEMA.empty_table(), *(effects for _, effects in parts)])
    return facts, effects


def _line(error: Exception) -> str:
    """An error in one line, without the traceback that DuckDB appends to some."""
    return " ".join(str(error).partition("Traceback (most recent")[0].split())
