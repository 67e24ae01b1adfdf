"""One file per fact while a run is going on: the fact's row and, nested in it, its effects."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from patchpoint.errors import InvalidArgument, ResultsError

from .disk import leftover, replacing
from .schema import EFFECTS, EFFECTS_SCHEMA, FACTS_SCHEMA, MEASURED, effects_table, facts_table

PARTS = "parts"
_NESTED = tuple(EFFECTS_SCHEMA.field(column.name) for column in EFFECTS if column.name != "fact")
_SCHEMA = FACTS_SCHEMA.append(pa.field("effects", pa.list_(pa.struct(_NESTED))))


class DamagedPart(ResultsError):
    """A part that is cut short, altered, or of another fact than its name says."""


def part_path(folder: Path, fact: int) -> Path:
    """Where the part of a fact lies in a run's folder."""
    return folder / PARTS / f"fact-{fact:06d}.parquet"


def write_part(
    folder: Path,
    row: Mapping[str, object],
    effects: Sequence[Mapping[str, object]],
    needed: Sequence[str] = MEASURED,
) -> tuple[int, str]:
    """Write one fact with its effects, whole or not at all; returns its number and status.

    A traced fact must have the columns `needed`.

    Raises InvalidArgument or UnknownName for values that do not fit the tables, ResultsError when the disk
    refuses.
    """
    facts = facts_table(row, needed)
    fact, status = facts["fact"][0].as_py(), facts["status"][0].as_py()
    if fact < 1:
        raise InvalidArgument(f"fact {fact}: facts count from 1")
    if bool(effects) != (status == "traced"):
        raise InvalidArgument(
            f"fact {fact} is {status} with {len(effects)} effects; only traced facts have any"
        )
    table = effects_table(fact, effects).combine_chunks()
    _require_inside(facts.to_pylist()[0], table)
    arrays = [table[field.name].combine_chunks() for field in _NESTED]
    structs = pa.StructArray.from_arrays(arrays, fields=list(_NESTED))
    nested = pa.ListArray.from_arrays(pa.array([0, table.num_rows], pa.int32()), structs)
    part = facts.append_column(_SCHEMA.field("effects"), nested)
    with replacing(part_path(folder, fact)) as temporary:
        pq.write_table(part, temporary, write_page_checksum=True)
    return fact, status


def read_part(path: Path) -> tuple[pa.Table, pa.Table]:
    """The facts row and the effects rows of a part.

    Raises DamagedPart when its content is not what was written, OSError when it cannot be read at all.
    """
    try:
        # Read first: a refused read says nothing about the content, which is deleted when it is bad.
        data = pa.BufferReader(path.read_bytes())
    except FileNotFoundError as error:
        raise DamagedPart(f"{str(path)!r} is gone; the same command computes it again") from error
    try:
        with pq.ParquetFile(data, page_checksum_verification=True) as file:
            table = file.read()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DamagedPart(f"{str(path)!r} is damaged; the same command computes it again") from error
    if not table.schema.equals(_SCHEMA) or table.num_rows != 1 or _number(path) != table["fact"][0].as_py():
        raise DamagedPart(f"{str(path)!r} is not the part its name says; the same command computes it again")
    structs = table["effects"].combine_chunks().flatten()
    numbers = pa.repeat(table["fact"][0], len(structs))
    effects = pa.Table.from_arrays([numbers, *structs.flatten()], schema=EFFECTS_SCHEMA)
    return table.drop_columns("effects").cast(FACTS_SCHEMA), effects


def read_parts(
    folder: Path, on_damage: Callable[[Path], None] | None = None
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """The facts and effects of every part, by fact number.

    A damaged part raises DamagedPart, or is handed to `on_damage` and left out.
    """
    for path in sorted((folder / PARTS).glob("*.parquet"), key=lambda path: (len(path.name), path.name)):
        if leftover(path.name):
            continue
        try:
            yield read_part(path)
        except DamagedPart:
            if on_damage is None:
                raise
            on_damage(path)


def _require_inside(row: Mapping[str, Any], effects: pa.Table) -> None:
    """Raise InvalidArgument when a position of a traced fact is not one of its tokens."""
    if not effects.num_rows:
        return
    fact, n_tokens, start, stop = row["fact"], len(row["tokens"]), row["subject_start"], row["subject_stop"]
    if row["token_ids"] is not None and len(row["token_ids"]) != n_tokens:
        raise InvalidArgument(f"fact {fact} has {n_tokens} tokens and {len(row['token_ids'])} token ids")
    _require_spans(fact, n_tokens, [{"name": "subject", "start": start, "stop": stop}, *(row["spans"] or [])])
    lowest, highest = (bound.as_py() for bound in pc.min_max(effects["token"]).values())
    if lowest < 0 or highest >= n_tokens or pc.min(effects["layer"]).as_py() < 0:
        raise InvalidArgument(
            f"fact {fact} has an effect at a token or layer that is not there; both count from 0"
        )


def _require_spans(fact: int, n_tokens: int, spans: Sequence[Mapping[str, Any]]) -> None:
    """Raise InvalidArgument for a span that is not within the tokens, or a name given to two."""
    names = [span["name"] for span in spans]
    if None in names or len(set(names)) < len(names):
        raise InvalidArgument(f"fact {fact}: its spans are named {names}; give each a name of its own")
    for span in spans:
        start, stop = span["start"], span["stop"]
        if start is None or stop is None or not 0 <= start <= stop <= n_tokens:
            raise InvalidArgument(
                f"fact {fact}: {span['name']} span {start}:{stop} is not within its {n_tokens} tokens"
            )


def _number(path: Path) -> int:
    digits = path.stem.removeprefix("fact-")
    return int(digits) if digits.isdecimal() else 0
