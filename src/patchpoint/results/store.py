"""Writing a run so that it can be killed at any moment and continued without a difference in its bytes."""

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from patchpoint.errors import ResultsError

from .disk import LOCK, leftover, lock, replacing
from .parts import PARTS, read_parts, write_part
from .provenance import RUN_FILE, Counts, RunRecord, read_record, require_same, write_record
from .schema import EFFECTS_SCHEMA, FACTS_SCHEMA, IMPORTED, MEASURED, STATUSES

EFFECTS_FILE = "effects.parquet"
FACTS_FILE = "facts.parquet"
NEEDED = {"import": IMPORTED}
"""What traced facts must have, by command; of all others everything measured."""
GROUP = 64
"""Facts per row group of the finished tables: what is held in memory while they are written."""


class Store:
    """A results folder open for writing: `with Store.create_or_resume(folder, record) as store`.

    Leaving the block frees the folder and, when `finish` was not reached, marks the run interrupted.
    """

    def __init__(self, folder: Path, record: RunRecord, status: dict[int, str], held: FileLock) -> None:
        self.folder = folder
        self.record = record
        self._status = status
        self._held = held

    @classmethod
    def create_or_resume(cls, folder: str | Path, record: RunRecord) -> Self:
        """Begin the run `record` in `folder`, or take up the same run where it stopped.

        Raises ResultsError, changing nothing, when the folder holds another run or other files, is being
        written by another process, cannot be written, or holds a finished run whose files are damaged.
        """
        folder = Path(folder)
        _refuse_foreign(folder)
        held = lock(folder)
        try:
            record, status = _begin(folder, record)
        except BaseException:
            held.release()
            raise
        return cls(folder, record, status, held)

    def statuses(self) -> dict[int, str]:
        """Status by number of the facts that are safely on disk."""
        return dict(self._status)

    def write(self, fact_row: Mapping[str, object], effects: Sequence[Mapping[str, object]] = ()) -> None:
        """Keep one fact: a row of the `facts` table and its rows of the `effects` table (see `schema`).

        On return both are on disk; killed before, neither is. Only traced facts have effects.
        Raises InvalidArgument or UnknownName for values that do not fit, ResultsError when the disk refuses
        or the run is finished.
        """
        self._require_open()
        if self.record.status == "finished":
            raise ResultsError(f"the run in {str(self.folder)!r} is finished; use another --out")
        needed = NEEDED.get(self.record.command, MEASURED)
        fact, status = write_part(self.folder, fact_row, effects, needed)
        self._status[fact] = status

    def finish(self) -> RunRecord:
        """Join the parts into effects.parquet and facts.parquet, ordered by fact; returns the final record.

        The same facts give the same bytes whatever the order and the interruptions. The run is marked
        finished when both tables are on disk, and only then are the parts removed. Raises ResultsError.
        """
        self._require_open()
        if self.record.status == "finished":
            return self.record
        _join(self.folder)
        outputs = {name: _sha256(self.folder / name) for name in (EFFECTS_FILE, FACTS_FILE)}
        self._mark(status="finished", finished=datetime.now(UTC), outputs=outputs)
        shutil.rmtree(self.folder / PARTS, ignore_errors=True)
        return self.record

    def close(self) -> None:
        """Free the folder for other writers; an unfinished run is marked interrupted."""
        if not self._held.is_locked:
            return
        try:
            if self.record.status != "finished":
                # The mark is a courtesy: a full disk must not hide the error that ended the run.
                with suppress(ResultsError):
                    self._mark(status="interrupted")
        finally:
            self._held.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _mark(self, **changes: object) -> None:
        record = self.record.with_(counts=_counts(self._status), **changes)
        write_record(self.folder, record)
        self.record = record

    def _require_open(self) -> None:
        if not self._held.is_locked:
            raise ResultsError(f"the store of {str(self.folder)!r} is closed; open it again to write")


def damage(folder: Path, record: RunRecord) -> str | None:
    """Which file of a finished run is not as it was written, in words, or None."""
    for name in (EFFECTS_FILE, FACTS_FILE):
        path = folder / name
        if not path.is_file():
            return f"{str(path)!r} is missing"
        if _sha256(path) != record.outputs.get(name):
            return f"{str(path)!r} is damaged: it is not the file that was written"
    return None


def _begin(folder: Path, record: RunRecord) -> tuple[RunRecord, dict[int, str]]:
    """The record and the status of each fact on disk to start from; only one's own leftovers are removed."""
    if (folder / RUN_FILE).exists():
        saved = read_record(folder)
        require_same(saved, record, folder)
        if saved.status == "finished":
            wrong = damage(folder, saved)
            if wrong is None:
                shutil.rmtree(folder / PARTS, ignore_errors=True)
                return saved, _finished_status(folder)
            if not (folder / PARTS).is_dir():
                raise ResultsError(f"{wrong}; delete the folder and run again, or use another --out")
        record = saved.continued(record)
    else:
        # First of all: a folder killed with parts but no record would be refused as someone's work.
        write_record(folder, record)
    status = _usable_parts(folder)
    record = record.with_(counts=_counts(status), outputs={})
    write_record(folder, record)
    return record, status


def _refuse_foreign(folder: Path) -> None:
    """A folder with files but no run may hold someone's work: nothing is written into it."""
    try:
        names = {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ResultsError(f"cannot use {str(folder)!r} as a results folder: {why}") from error
    foreign = sorted(name for name in names if name not in (LOCK, RUN_FILE) and not leftover(name))
    if RUN_FILE not in names and foreign:
        raise ResultsError(
            f"{str(folder)!r} holds {', '.join(foreign[:3])}{', ...' if len(foreign) > 3 else ''} and no "
            f"{RUN_FILE}; use an empty or new folder as --out"
        )


def _usable_parts(folder: Path) -> dict[int, str]:
    """Status by fact of the parts that are whole; what a crash left half-written is deleted."""
    try:
        (folder / PARTS).mkdir(exist_ok=True)
        for path in (*folder.iterdir(), *(folder / PARTS).iterdir()):
            if leftover(path.name):
                path.unlink()
        whole = read_parts(folder, on_damage=lambda path: path.unlink(missing_ok=True))
        return {facts["fact"][0].as_py(): facts["status"][0].as_py() for facts, _ in whole}
    except OSError as error:
        raise ResultsError(
            f"cannot continue in {str(folder)!r}: {error.strerror or error}; check its permissions"
        ) from error


def _finished_status(folder: Path) -> dict[int, str]:
    with pq.ParquetFile(folder / FACTS_FILE) as file:
        table = file.read(["fact", "status"])
    return dict(zip(table["fact"].to_pylist(), table["status"].to_pylist(), strict=True))


def _counts(status: Mapping[int, str]) -> Counts:
    found = Counter(status.values())
    return Counts(facts=len(status), **{name: found[name] for name in STATUSES})


def _join(folder: Path) -> None:
    parts = read_parts(folder)
    with (
        replacing(folder / EFFECTS_FILE) as effects_path,
        replacing(folder / FACTS_FILE) as facts_path,
        pq.ParquetWriter(effects_path, EFFECTS_SCHEMA, write_page_checksum=True) as effects_file,
        pq.ParquetWriter(facts_path, FACTS_SCHEMA, write_page_checksum=True) as facts_file,
    ):
        for group in _groups(parts):
            facts_file.write_table(pa.concat_tables([facts for facts, _ in group]).combine_chunks())
            effects_file.write_table(pa.concat_tables([effects for _, effects in group]).combine_chunks())


def _groups(parts: Iterator[tuple[pa.Table, pa.Table]]) -> Iterator[list[tuple[pa.Table, pa.Table]]]:
    while group := list(islice(parts, GROUP)):
        yield group


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ResultsError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
