"""`patchpoint circuit compare` and `cross`: are circuits the same, and do they do each other's tasks?"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import xarray as xr
from rich.console import Console

from patchpoint.circuits.circuit import Circuit
from patchpoint.circuits.compare import Comparison, compare, cross_task
from patchpoint.errors import InvalidArgument
from patchpoint.plots.circuit_files import formats_of
from patchpoint.plots.circuit_parts import labels_of
from patchpoint.plots.labels import prose

from .circuit_files import draw, own_prompts, read_circuit
from .circuit_options import CircuitModel, CircuitPaths, Pictures, Ports
from .circuit_report import show_files
from .circuit_tables import Rows
from .options import (
    AllowPickle,
    AsJson,
    Device,
    Dtype,
    Memory,
    Out,
    Quiet,
    model_for,
    notes,
    print_json,
)
from .task_files import made_folder

NUMBERS = ("jaccard", "expected", "p_value")


def compare_command(
    circuits: CircuitPaths,
    ports: Ports = False,
    pictures: Pictures = "png,html",
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """What circuits share, against chance, and all of them in one graph. Needs no model.

    Example: patchpoint circuit compare runs/numerals runs/numwords runs/months --out runs/shared
    """
    formats = formats_of(pictures)
    named = _read(circuits)
    found = compare(named)
    rows = overlap_rows(found)
    paths = []
    if out is not None:
        folder = made_folder(out)
        paths = rows.write(folder, "overlap")
        paths += draw(list(named.values()), folder, "shared", formats, ports=ports)
    if as_json:
        print_json({**_document(found, rows), "files": list(map(str, paths))})
        return
    console = Console(highlight=False)
    console.print(rows.terminal())
    shared, union = found.shared_nodes, found.union_nodes
    told = [f"in all of them: {len(shared)} of {len(union)} nodes{': ' if shared else ''}{', '.join(shared)}"]
    if found.union_edges:
        told.append(f"and {len(found.shared_edges)} of {len(found.union_edges)} edges")
    for line in told:
        console.print(prose(line), markup=False, soft_wrap=True)
    show_files(console, paths)


def cross_command(
    circuits: CircuitPaths,
    out: Out = None,
    model: CircuitModel = None,
    device: Device = None,
    dtype: Dtype = None,
    memory: Memory = None,
    allow_pickle: AllowPickle = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Each circuit on the others' prompts: percent of the full model's metric that it keeps.

    Example: patchpoint circuit cross runs/numerals runs/numwords runs/months runs/ioi --out runs/cross
    """
    noted, named = notes(quiet), _read(circuits)
    folder = None if out is None else made_folder(out)
    models = dict.fromkeys(circuit.origin.model for circuit in named.values())
    if model is None and len(models) > 1:
        raise InvalidArgument(
            f"these circuits are of {' and '.join(models)}; give those of one model, or --model"
        )
    loaded = model_for(model or next(iter(models)), device, dtype, allow_pickle, noted)
    for circuit in named.values():
        circuit.check(loaded)
    data = {name: own_prompts(path, loaded) for name, path in zip(named, circuits, strict=True)}
    found = cross_task(named, loaded, data, memory_gib=memory)
    paths = [] if folder is None else _cross_files(found, folder)
    if as_json:
        print_json({"model": loaded.name, "cells": _cells(found), "files": list(map(str, paths))})
        return
    console = Console(highlight=False)
    console.print("percent of the full model's metric kept, rows: circuits, columns: prompts", markup=False)
    console.print(_matrix(found).terminal())
    for cell in _cells(found):
        if cell["flag"]:
            line = f"{cell['circuit']} on {cell['task']} says little: {cell['flag']}"
            console.print(prose(line), markup=False, soft_wrap=True)
    show_files(console, paths)


def overlap_rows(found: Comparison) -> Rows:
    """A row per pair of circuits, of nodes and where there are any of edges."""
    rows: list[tuple[str | int | float | None, ...]] = []
    for kind, table in (("nodes", found.nodes), ("edges", found.edges)):
        for one, other in combinations(found.names, 2) if table is not None else ():
            assert table is not None
            pair = table.sel(circuit=one, other=other)
            weighted = float(found.weighted.sel(circuit=one, other=other))
            shared = float(pair["shared"])
            counts = None if shared != shared else int(shared)
            rows.append((one, other, kind, counts, *(float(pair[name]) for name in NUMBERS), weighted))
    columns = ("circuit", "other", "parts", "shared", "Jaccard", "by chance", "p", "weighted by score")
    return Rows(columns, tuple(rows))


def _read(paths: Sequence[Path]) -> Mapping[str, Circuit]:
    """Circuits by a different name each; InvalidArgument for fewer than two."""
    if len(paths) < 2:
        raise InvalidArgument(f"got {len(paths)} circuit; give two or more")
    circuits = [read_circuit(path) for path in paths]
    return dict(zip(labels_of(circuits), circuits, strict=True))


def _document(found: Comparison, rows: Rows) -> dict[str, Any]:
    return {
        "circuits": list(found.names),
        "overlap": [dict(zip(rows.columns, row, strict=True)) for row in rows.rows],
        "shared_nodes": list(found.shared_nodes),
        "union_nodes": list(found.union_nodes),
        "shared_edges": [list(edge) for edge in found.shared_edges],
        "n_union_edges": len(found.union_edges),
    }


def _cells(found: xr.DataArray) -> list[dict[str, Any]]:
    return [
        {
            "circuit": circuit,
            "task": task,
            "performance": float(cell),
            "low": float(cell["low"]),
            "high": float(cell["high"]),
            "flag": str(cell["flag"].item()),
        }
        for circuit in found["circuit"].values.tolist()
        for task in found["task"].values.tolist()
        for cell in [found.sel(circuit=circuit, task=task)]
    ]


def _matrix(found: xr.DataArray) -> Rows:
    """A row per circuit, a column per task, each cell with its interval."""
    tasks = tuple(map(str, found["task"].values))
    texts: dict[tuple[str, str], str] = {}
    for cell in _cells(found):
        interval = "" if cell["flag"] else f" [{cell['low']:.1f}, {cell['high']:.1f}]"
        texts[cell["circuit"], cell["task"]] = (
            f"{cell['performance']:.1f}{'*' if cell['flag'] else ''}{interval}"
        )
    rows = tuple(
        (circuit, *(texts[circuit, task] for task in tasks)) for circuit in map(str, found["circuit"].values)
    )
    return Rows(("circuit", *tasks), rows)


def _cross_files(found: xr.DataArray, folder: Path) -> list[Path]:
    """One row per cell as CSV and LaTeX, and the matrix of both."""
    cells = _cells(found)
    long = Rows(tuple(cells[0]), tuple(tuple(cell.values()) for cell in cells))
    return [*_matrix(found).write(folder, "cross"), *long.write(folder, "cross-cells")]
