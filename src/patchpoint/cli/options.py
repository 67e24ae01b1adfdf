"""Options that commands share, and how they print."""

import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from patchpoint.engine import Model, load

DEFAULT = "smollm2-135m"
"""The model of a command that names none."""

AsJson = Annotated[
    bool, typer.Option("--json", help="One JSON document on standard output, all else on standard error.")
]
Out = Annotated[Path | None, typer.Option(help="Folder for results and pictures.", show_default=False)]
Seed = Annotated[int, typer.Option(help="Seed of every random draw.")]
ModelName = Annotated[str, typer.Option("--model", help="Known name, Hugging Face id, folder or .gguf file.")]
Device = Annotated[
    str | None,
    typer.Option(
        help="cpu, cuda, cuda:1, ... (default: cuda where there is one); auto: spread a large model over "
        "all devices, memory and disk.",
        show_default=False,
    ),
]
Dtype = Annotated[
    str | None, typer.Option(help="float32 (default), bfloat16 or float16.", show_default=False)
]
Memory = Annotated[
    float | None,
    typer.Option(help="Memory budget in GiB (default: half of what is free).", show_default=False),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress and no notes on standard error.")]
AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="Read pickled weights where there are no safetensors.")
]


def notes(quiet: bool) -> Console:
    """Where progress and notes go: standard error, or nowhere."""
    return Console(stderr=True, quiet=quiet, highlight=False)


def model_for(
    name: str, device: str | None, dtype: str | None, allow_pickle: bool, console: Console
) -> Model:
    """The model a command was given, its slow steps told on the console."""

    def notify(line: str) -> None:
        console.print(line, markup=False)

    place = {"device_map": "auto"} if device == "auto" else {"device": device}
    return load(name, **place, dtype=dtype, allow_pickle=allow_pickle, notify=notify)


def print_json(document: object) -> None:
    """One JSON document on standard output."""
    typer.echo(json.dumps(_plain(document), ensure_ascii=False, allow_nan=False))


def _plain(value: object) -> object:
    """A value as JSON has it: NaN and infinity become null, dates and bytes their text."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float | Decimal):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
