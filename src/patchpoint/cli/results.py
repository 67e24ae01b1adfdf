"""`patchpoint results`: what a run holds, and SQL over it."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import xarray as xr
from rich.console import Console
from rich.table import Table
from rich.text import Text

from patchpoint.results import Answer, RunRecord, SavedRun, open_run
from patchpoint.results import query as run_query
from patchpoint.results.averages import saved_roles
from patchpoint.tracing.bootstrap import CONFIDENCE

from .options import AsJson, print_json
from .results_import import import_command

app = typer.Typer(
    help="Look into the results of a run, or bring in those of another program.", no_args_is_help=True
)
app.command("import")(import_command)

Folder = Annotated[Path, typer.Argument(help="The run's folder, as given to --out.", show_default=False)]
REASONS_SHOWN = 10


@app.command()
def show(folder: Folder, as_json: AsJson = False) -> None:
    """Settings, counts, and the average effect by token role.

    Example: patchpoint results show runs/gaussian
    """
    saved = open_run(folder)
    roles = saved_roles(saved)
    left_out = [row for row in saved if row["status"] != "traced"]
    if as_json:
        print_json(
            {
                "folder": str(folder),
                "run": saved.record.model_dump(mode="json"),
                "roles": None if roles is None else _roles_json(roles),
                "not_traced": [
                    {name: row[name] for name in ("fact", "status", "reason")} for row in left_out
                ],
            }
        )
        return
    console = Console()
    console.print(_settings(folder, saved))
    if roles is not None:
        console.print(_role_table(roles, str(saved.record.arguments.get("metric", "prob"))))
    if left_out:
        console.print(_left_out_table(left_out))


@app.command()
def query(
    folder: Folder,
    sql: Annotated[str, typer.Argument(help="SQL over the tables effects and facts.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Ask a run a question in SQL (DuckDB).

    Example: patchpoint results query runs/gaussian "SELECT layer, avg(effect) FROM effects GROUP BY layer"
    """
    answer = run_query(folder, sql)
    if as_json:
        print_json({"columns": answer.columns, "rows": answer.rows})
    else:
        Console().print(_answer_table(answer))


def _roles_json(roles: xr.Dataset) -> dict[str, Any]:
    return {
        str(role): {str(name): roles[name].sel(role=role).values.tolist() for name in roles}
        for role in roles["role"].values
    }


def _settings(folder: Path, saved: SavedRun) -> Table:
    record = saved.record
    table = Table("setting", "value", title=_text(folder))
    rows: list[tuple[str, object]] = [
        ("status", _status(record)),
        ("facts", ", ".join(f"{number} {name}" for name, number in _counted(saved).items())),
        ("command", record.command),
        *_arguments(record),
        ("seed", "not given" if record.command == "import" else record.seed),
        ("model", f"{record.model} ({record.model_fingerprint})"),
        ("tokenizer", record.tokenizer_fingerprint),
        ("facts file", record.facts_sha256 or "none"),
        ("device, dtype", f"{record.device}, {record.dtype}"),
        ("doctor", record.doctor.summary() if record.doctor else "not asked"),
        ("versions", ", ".join(f"{name} {version}" for name, version in record.versions.items())),
        ("commit", _commit(record)),
        ("started", record.started.isoformat(timespec="seconds")),
        ("finished", record.finished.isoformat(timespec="seconds") if record.finished else "not yet"),
        ("continuations", len(record.resumed)),
    ]
    for name, value in rows:
        table.add_row(_text(name), _text(value))
    return table


def _arguments(record: RunRecord) -> list[tuple[str, object]]:
    """The arguments that have no row of their own."""
    own = {"seed", "model", "device", "dtype"}
    return [
        (name, json.dumps(value, ensure_ascii=False))
        for name, value in sorted(record.arguments.items())
        if name not in own
    ]


def _counted(saved: SavedRun) -> dict[str, int]:
    found = {"traced": 0, "skipped": 0, "malformed": 0}
    for status in saved.facts["status"].to_pylist():
        found[status] += 1
    return found


def _status(record: RunRecord) -> str:
    if record.status == "running":
        return "running, or killed: then the same command continues it"
    return record.status


def _commit(record: RunRecord) -> str:
    if record.git_commit is None:
        return "not a checkout"
    return f"{record.git_commit}{' with changes' if record.git_dirty else ''}"


def _role_table(roles: xr.Dataset, metric: str) -> Table:
    table = Table(
        *("role", "facts", "tokens", "peak layer", "mean", f"{CONFIDENCE:.0%} interval", "std"),
        title=_text(f"indirect effect ({metric})"),
        caption="interval: of the mean at that layer, facts drawn with replacement",
    )
    for role in roles["role"].values:
        mean = roles["mean"].sel(role=role)
        if mean.notnull().any():
            there = roles.sel(role=role).isel(layer=int(mean.argmax("layer")))
            facts, tokens, layer = (str(int(there[name])) for name in ("facts", "count", "layer"))
            low, high, std = (float(there[name]) for name in ("low", "high", "std"))
            interval = "one fact" if math.isnan(low) else f"{low:.4f} to {high:.4f}"
            spread = "" if math.isnan(std) else f"{std:.4f}"
            table.add_row(str(role), facts, tokens, layer, f"{float(there['mean']):.4f}", interval, spread)
        else:
            table.add_row(str(role), "0", "0", "", "", "", "")
    return table


def _left_out_table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table("fact", "status", "reason", title="not traced")
    for row in rows[:REASONS_SHOWN]:
        table.add_row(str(row["fact"]), row["status"], _text(row["reason"] or ""))
    if len(rows) > REASONS_SHOWN:
        table.caption = f"and {len(rows) - REASONS_SHOWN} more; --json lists all"
    return table


def _answer_table(answer: Answer) -> Table:
    table = Table()
    for column in answer.columns:
        table.add_column(_text(column))
    for row in answer.rows:
        table.add_row(*(_text(f"{value:.6g}" if isinstance(value, float) else value) for value in row))
    return table


def _text(value: object) -> Text:
    """Any value as literal text: no markup, and control characters, which drive terminals, spelled out."""
    return Text("".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value)))
