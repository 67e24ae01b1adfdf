"""`patchpoint models`: the models known by name, fetching one, and what a model is."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from patchpoint.models.catalog import CATALOG, KnownModel
from patchpoint.models.load import load
from patchpoint.models.model import LoadedModel
from patchpoint.models.pull import pull
from patchpoint.models.tokens import bos_habit

from .options import AsJson, print_json

app = typer.Typer(help="Known models, fetching them, and what a model is.", no_args_is_help=True)


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
