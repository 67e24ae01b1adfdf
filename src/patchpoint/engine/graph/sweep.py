"""Sweeps over single edges of a graph run: what each one's removal, or its addition, does."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import torch
import xarray as xr

from patchpoint.engine.memory import budget_bytes
from patchpoint.engine.metrics import LogitsMetric
from patchpoint.engine.prompt_tiles import tile_rows

from .edges import Edge
from .entry import EdgeChange, changed_finals
from .held import HeldGraph, run_graph
from .pairs import pairs_of
from .run import GraphRun, one_layer, rows_at_once
from .wiring import Wiring

KINDS = ("head", "mlp", "logits")


@torch.no_grad()
def sweep_edges(
    base: GraphRun,
    edges: Sequence[Edge],
    metric: str | LogitsMetric = "logit_diff",
    *,
    memory_gib: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> xr.DataArray:
    """The metric with one edge of a graph run changed, dims (edge, prompt): removed where it was kept, else added.

    Exact: equal to a graph run of its own for every edge, to float rounding. An edge that cannot change the
    logits (its sender is no different from its corrupted self, or nothing that the logits hear reads its port)
    has the base's value. Coordinates: `edge` as text, `sender`, `port`, and `kept` (whether the base has it).
    `metric` is as in `graph_run`; `memory_gib` bounds what is held at once, down to one edge of one prompt
    (default: half of what is free); `progress` is called with the numbers of edges done and of all, each counted
    once for every group of prompts of one shape. Raises UnknownName or InvalidArgument.
    """
    model, graph = base.clean.model, base.graph
    numbers = [graph.number(edge) for edge in edges]
    wiring = Wiring.of(model, base.kept)
    changes = [
        EdgeChange(i, sender, graph.ports[port], -1.0 if base.kept[sender, port] else 1.0)
        for i, (sender, port) in enumerate(numbers)
        if _heard(wiring, port)
    ]
    changes.sort(key=lambda c: (*c.place, c.port.part, c.port.node.head))
    values = base.measured(metric)[None].repeat(len(edges), 1)
    groups = list(pairs_of(base.clean, base.corrupt, rows_at_once(wiring, memory_gib)))
    done, total = 0, len(groups) * len(edges)
    for number, pairs in enumerate(groups):
        held = run_graph(pairs, wiring)
        for chunk in _chunks(held, changes, memory_gib):
            final = changed_finals(held, chunk).to(model.dtype)
            prompts = torch.tensor(pairs.prompts, device=final.device)
            found = base.measured_at(metric, final, prompts.repeat(len(chunk))).view(len(chunk), -1)
            values[torch.tensor([[change.number] for change in chunk]), torch.tensor(pairs.prompts)] = found
            done += len(chunk)
            if progress is not None:
                progress(done, total)
        done = (number + 1) * len(edges)
        if progress is not None:
            progress(done, total)
    return xr.DataArray(
        values.numpy(),
        dims=("edge", "prompt"),
        coords={
            "edge": [graph.name(*pair) for pair in numbers],
            "sender": ("edge", [str(graph.senders[sender]) for sender, _ in numbers]),
            "port": ("edge", [str(graph.ports[port]) for _, port in numbers]),
            "kept": ("edge", [bool(base.kept[pair]) for pair in numbers]),
        },
    )


def _heard(wiring: Wiring, port: int) -> bool:
    """Whether what is read at a port can reach the logits."""
    node = wiring.graph.ports[port].node
    if node.kind == "logits":
        return True
    heads = wiring.graph.heads(node.layer)
    return bool(wiring.heard[heads.start + node.head if node.kind == "head" else heads.stop])


def _chunks(
    held: HeldGraph, changes: Sequence[EdgeChange], memory_gib: float | None
) -> Iterator[list[EdgeChange]]:
    """Changes that do something, those of one place together, as many at once as memory and one step allow."""
    wiring, pairs = held.wiring, held.pairs
    differs = held.differences.flatten(2).any(-1).any(0).tolist()
    budget = budget_bytes(memory_gib, wiring.model.device) // 2
    most_rows = tile_rows(wiring.model.device)
    for place, grouped in groupby((c for c in changes if differs[c.sender]), key=lambda c: c.place):
        mine = list(grouped)
        above = (wiring.model.n_layers - place[0]) * (wiring.model.n_heads + 1)
        row_bytes = (above * wiring.model.d_model + one_layer(wiring)) * wiring.dtype.itemsize
        rows = len(pairs.prompts) if place[1] == "logits" else len(pairs.rows)
        most = max(1, min(most_rows, budget // row_bytes) // rows)
        n_chunks = -(-len(mine) // most)
        for part in range(n_chunks):
            yield mine[part * len(mine) // n_chunks : (part + 1) * len(mine) // n_chunks]
