"""`patchpoint models`: the models known by name, fetching one, what a model is, and its examination."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from patchpoint.doctor import Verdict
from patchpoint.doctor.keeping import new_verdict
from patchpoint.engine import load as load_for_runs
from patchpoint.models.catalog import CATALOG, KnownModel
from patchpoint.models.load import load
from patchpoint.models.model import LoadedModel
from patchpoint.models.pull import pull
from patchpoint.models.tokens import bos_habit

from .options import AllowPickle, AsJson, Device, Dtype, print_json

app = typer.Typer(
    help="Known models, fetching them, what a model is, and its examination.", no_args_is_help=True
)

OUTCOME_STYLES = {"passed": "green", "failed": "bold red", "skipped": "dim"}


@app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """The models known by name, and which of them are in the cache.

    Example: patchpoint models list
    """
    rows = [_known(known) for known in CATALOG.values()]
    if as_json:
        print_json({"models": rows})
        return
    table = Table(Column("name", no_wrap=True), "model", "size", "licence", "download", "cached")
    for row in rows:
        table.add_row(
            row["name"],
            _text(row["title"]),
            f"{row['parameters'] / 1e6:,.0f}M",
            row["licence"],
            f"{row['download_mb']} MB",
            "yes" if row["folder"] else "no",
        )
    Console().print(table)


@app.command("pull")
def pull_model(
    name: Annotated[str, typer.Argument(help="A name from `patchpoint models list`.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Fetch a known model, check it and convert it into the cache; at once done where it is there.

    Example: patchpoint models pull smollm2-135m
    """
    folder = pull(name, _to_stderr)
    if as_json:
        print_json({"name": name, "folder": str(folder)})
    else:
        typer.echo(folder)


@app.command("info")
def info(
    model: Annotated[
        str,
        typer.Argument(
            metavar="NAME|PATH",
            help="A known name (fetched if need be), a folder, a .gguf file, or a Hugging Face id.",
            show_default=False,
        ),
    ],
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Read pickled weights where there are no safetensors.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Sizes, family, number format, context length, BOS habit, fingerprints and files of a model.

    Example: patchpoint models info smollm2-135m
    """
    facts = _facts(load(model, device="cpu", allow_pickle=allow_pickle, notify=_to_stderr))
    if as_json:
        print_json(facts)
        return
    table = Table(show_header=False)
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), _text(_shown(value)))
    Console().print(table)


@app.command("check")
def check(
    model: Annotated[
        str,
        typer.Argument(
            metavar="NAME|PATH",
            help="A known name (fetched if need be), a folder, a .gguf file, or a Hugging Face id.",
            show_default=False,
        ),
    ],
    device: Device = None,
    dtype: Dtype = None,
    allow_pickle: AllowPickle = False,
    as_json: AsJson = False,
) -> None:
    """Examine a model: are our numbers its own? Exit code 0 when all checks pass, 1 when one fails.

    Example: patchpoint models check smollm2-135m
    """
    loaded = load_for_runs(model, device=device, dtype=dtype, allow_pickle=allow_pickle, notify=_to_stderr)
    notes = Console(stderr=True, highlight=False)
    news: list[str] = []
    with notes.status("examining"):
        verdict = new_verdict(loaded, notify=news.append)
    if as_json:
        print_json({**verdict.to_dict(), "passed": verdict.passed})
    else:
        _show_verdict(verdict)
    for line in news[1:]:
        notes.print(line, markup=False, soft_wrap=True)
    if not verdict.passed:
        raise typer.Exit(1)


def _show_verdict(verdict: Verdict) -> None:
    table = Table("check", "result", Column("error", justify="right"), Column("at most", justify="right"))
    table.add_column("of what, or why")
    for one in verdict.checks:
        error, tolerance = (
            "" if number is None else f"{number:.2g}" for number in (one.error, one.tolerance)
        )
        said = "; ".join(filter(None, (one.compares, one.unit and f"in {one.unit}", one.reason)))
        table.add_row(
            one.name, Text(one.outcome, style=OUTCOME_STYLES[one.outcome]), error, tolerance, _text(said)
        )
    console = Console(highlight=False)
    console.print(table)
    about = verdict.about
    noise = (
        "not measured" if verdict.noise is None else f"{verdict.noise:.2g} standard deviations of the logits"
    )
    versions = ", ".join(f"{name} {number}" for name, number in about.versions.items())
    for line in (
        verdict.summary(),
        f"noise of {about.dtype} (products {about.products}): {noise}",
        f"{verdict.seconds:.1f} s; model {about.model_fingerprint}; {versions}",
    ):
        console.print(line, markup=False, soft_wrap=True)


def _known(known: KnownModel) -> dict[str, Any]:
    return asdict(known) | {"folder": str(known.folder) if known.folder.is_dir() else None}


def _facts(model: LoadedModel) -> dict[str, Any]:
    """What `info` shows, in its order."""
    files = Path(model.name).expanduser()
    return {
        "name": model.name,
        "family": model.hf.config.model_type,
        "class": type(model.hf).__name__,
        "parameters": sum(parameter.numel() for parameter in model.hf.parameters()),
        "layers": model.n_layers,
        "heads": model.n_heads,
        "kv_heads": model.adapter.blocks[0].n_kv_heads,
        "d_model": model.d_model,
        "d_vocab": model.d_vocab,
        "dtype": str(model.dtype).removeprefix("torch."),
        "max_tokens": model.max_tokens,
        "bos_token": model.tokenizer.bos_token,
        "bos_habit": bos_habit(model.tokenizer),
        "fingerprint": model.fingerprint,
        "tokenizer_fingerprint": model.tokenizer_fingerprint,
        "files": str(files if files.is_file() else model.hf.name_or_path),
    }


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _text(value: object) -> Text:
    """Text that Rich neither interprets nor cuts short."""
    return Text(str(value), overflow="fold")


def _to_stderr(line: str) -> None:
    typer.echo(line, err=True)
