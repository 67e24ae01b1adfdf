"""The two result tables: names, types, units and meaning of their columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from patchpoint.errors import InvalidArgument, UnknownName

SCHEMA_VERSION = 2
STATUSES = ("traced", "skipped", "malformed")
METRIC = "the run's metric"


@dataclass(frozen=True)
class Column:
    """One column; unit "the run's metric" is probability unless `run.json` names another metric."""

    name: str
    type: pa.DataType
    unit: str
    meaning: str
    optional: bool = False


EFFECTS = (
    Column("fact", pa.int64(), "row of the fact file, from 1", "the fact measured"),
    Column("token", pa.int32(), "position, from 0", "the token whose state was changed"),
    Column("layer", pa.int32(), "index, from 0", "the layer whose state was changed"),
    Column("effect", pa.float32(), METRIC, "indirect effect, mean over noise samples"),
    Column("effect_se", pa.float32(), METRIC, "standard error of effect over noise samples"),
    Column("p_restored", pa.float32(), METRIC, "metric with this one state changed, mean over samples"),
    Column(
        "exact",
        pa.bool_(),
        "true | false",
        "whether the value was measured; false: an estimate by a gradient or by fewer samples",
    ),
)
_SPAN = pa.struct([("name", pa.string()), ("start", pa.int32()), ("stop", pa.int32())])
FACTS = (
    Column("fact", pa.int64(), "row of the fact file, from 1", "the fact"),
    Column("prompt", pa.string(), "text", "what the model reads", True),
    Column("subject", pa.string(), "text", "the part of the prompt that is corrupted", True),
    Column("attribute", pa.string(), "text", "the true answer as the file gives it", True),
    Column("answer", pa.string(), "text", "the token scored", True),
    Column("answer_id", pa.int64(), "vocabulary index", "the token scored", True),
    Column("tokens", pa.list_(pa.string()), "text", "the prompt's tokens", True),
    Column("token_ids", pa.list_(pa.int64()), "vocabulary index", "the prompt's tokens", True),
    Column("subject_start", pa.int32(), "position, from 0", "first subject token", True),
    Column("subject_stop", pa.int32(), "position, from 0", "one past the last subject token", True),
    Column(
        "spans",
        pa.list_(_SPAN),
        "positions, from 0, half-open",
        "further named spans of tokens, such as the facts of a prefix",
        True,
    ),
    Column("p_clean", pa.float64(), METRIC, "metric of the clean run", True),
    Column("p_corrupt", pa.float64(), METRIC, "metric of the corrupted run, mean over samples", True),
    Column("noise_std", pa.float64(), "embedding units", "standard deviation of the noise", True),
    Column("status", pa.string(), " | ".join(STATUSES), "what became of the fact"),
    Column("reason", pa.string(), "text", "why the fact was not traced", True),
)


MEASURED = tuple(c.name for c in FACTS if c.name not in ("spans", "noise_std", "reason"))
"""What a traced fact needs."""
IMPORTED = ("fact", "prompt", "subject", "tokens", "subject_start", "subject_stop", "status")
"""What a fact needs whose effects come from a foreign file."""


def arrow_schema(columns: Sequence[Column]) -> pa.Schema:
    """The Arrow schema of a table; each field carries its unit and meaning as metadata."""
    fields = [
        pa.field(c.name, c.type, nullable=c.optional, metadata={"unit": c.unit, "meaning": c.meaning})
        for c in columns
    ]
    return pa.schema(fields, metadata={"patchpoint_schema_version": str(SCHEMA_VERSION)})


EFFECTS_SCHEMA = arrow_schema(EFFECTS)
FACTS_SCHEMA = arrow_schema(FACTS)


def facts_table(row: Mapping[str, object], needed: Sequence[str] = MEASURED) -> pa.Table:
    """One row of the facts table from a mapping; columns left out are null.

    Raises UnknownName for an unknown column or status, InvalidArgument for a value of the wrong kind, text
    that is not valid Unicode, and a traced fact without the columns `needed`.
    """
    _known(row)
    if row.get("status") not in STATUSES:
        raise UnknownName("status", str(row.get("status")), STATUSES)
    wanted = needed if row["status"] == "traced" else [c.name for c in FACTS if not c.optional]
    missing = [name for name in wanted if row.get(name) is None]
    if missing:
        raise InvalidArgument(f"a {row['status']} fact needs {', '.join(missing)}; got none")
    return _table([row], FACTS_SCHEMA)


def effects_table(fact: int, rows: Sequence[Mapping[str, object]]) -> pa.Table:
    """Rows of the effects table for one fact, ordered by token and layer; `fact` may be left out of `rows`.

    Raises UnknownName for a column that is not there, InvalidArgument for missing or repeated values.
    """
    names = {column.name for column in EFFECTS}
    for row in rows:
        if row.keys() | {"fact"} != names:
            _known(row, EFFECTS)
            missing = sorted(names - row.keys() - {"fact"})
            raise InvalidArgument(f"an effect of fact {fact} lacks {', '.join(missing)}")
        if row.get("fact", fact) != fact:
            raise InvalidArgument(f"an effect of fact {row['fact']} was given with fact {fact}")
    table = _table([{**row, "fact": fact} for row in rows], EFFECTS_SCHEMA)
    empty = [name for name in table.column_names if table[name].null_count]
    if empty:
        raise InvalidArgument(f"an effect of fact {fact} has no {', '.join(empty)}")
    places = table.select(["token", "layer"])
    if places.group_by(["token", "layer"]).aggregate([]).num_rows != table.num_rows:
        raise InvalidArgument(f"fact {fact} has two effects for one token and layer; give each place once")
    return table.sort_by([("token", "ascending"), ("layer", "ascending")])


def grid_rows(
    effect: ArrayLike, effect_se: ArrayLike, p_restored: ArrayLike, exact: ArrayLike | None = None
) -> list[dict[str, object]]:
    """Effect rows from arrays of shape (token, layer), the first three in the run's metric.

    `exact` says of each place whether it was measured; None: every one was. Raises InvalidArgument when the
    shapes differ or are not (token, layer).
    """
    arrays = [np.asarray(values) for values in (effect, effect_se, p_restored)]
    arrays.append(np.ones(arrays[0].shape, dtype=bool) if exact is None else np.asarray(exact))
    shapes = {array.shape for array in arrays}
    if len(shapes) != 1 or arrays[0].ndim != 2:
        raise InvalidArgument(f"effects need arrays of one shape (token, layer); got {sorted(shapes)}")
    tokens, layers = (axis.ravel().tolist() for axis in np.indices(arrays[0].shape))
    columns = [tokens, layers, *(array.ravel().tolist() for array in arrays)]
    names = ("token", "layer", "effect", "effect_se", "p_restored", "exact")
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _known(row: Mapping[str, object], columns: Sequence[Column] = FACTS) -> None:
    names = [column.name for column in columns]
    for name in row:
        if name not in names:
            raise UnknownName("column", name, names)


def _table(rows: Sequence[Mapping[str, object]], schema: pa.Schema) -> pa.Table:
    try:
        return pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise InvalidArgument(f"a result has a value of the wrong kind: {reason}") from error
