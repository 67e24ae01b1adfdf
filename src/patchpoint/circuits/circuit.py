"""A circuit: the nodes or edges that a method kept, every score it gave, and where all of it comes from."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from patchpoint.engine import Model
from patchpoint.engine.graph.edges import Graph
from patchpoint.errors import ResultsError
from patchpoint.tasks.prompts import Prompts
from patchpoint.tasks.whole_file import write_whole

from .evaluate import evaluate
from .evaluation import Evaluation
from .exchange import Metric
from .names import Shape

VERSION = 1
Setting = str | int | float | bool | None


@dataclass(frozen=True)
class Origin:
    """The model and the prompts that a circuit was found on."""

    model: str
    model_fingerprint: str
    tokenizer_fingerprint: str
    task: str
    corruption: str | None
    seed: int | None
    n_prompts: int

    @classmethod
    def of(cls, model: Model, data: Prompts) -> "Origin":
        """That of these prompts on this model."""
        header = data.header
        return cls(
            model.name,
            model.fingerprint,
            model.tokenizer_fingerprint,
            "pairs" if header is None else header.task,
            None if header is None else header.corruption,
            None if header is None else header.seed,
            len(data),
        )


@dataclass(frozen=True)
class Step:
    """One decision of a search: what was tried, the value that it led to, and whether the part was kept."""

    name: str
    value: float
    kept: bool


@dataclass(frozen=True, eq=False, kw_only=True)
class Circuit:
    """Parts of a model that do a task.

    `nodes`: heads `9.1` and MLPs `mlp 4` in the order of the model; of an edge circuit those that its edges touch.
    `edges`: (sender, port) such as `("mlp 0", "9.1.q")`; None for a circuit of nodes, in which all edges between
    kept nodes are kept. `scores`: dims (node) or (sender, port), float32, NaN where there is none, positive where
    the part raises the metric. `settings`: every argument of the method that changes what it finds.
    """

    nodes: tuple[str, ...]
    edges: tuple[tuple[str, str], ...] | None
    scores: xr.DataArray
    method: str
    settings: Mapping[str, Setting]
    origin: Origin
    steps: tuple[Step, ...] = field(default=())

    def __str__(self) -> str:
        heads = sum(not node.startswith("mlp") for node in self.nodes)
        edges = "" if self.edges is None else f", {len(self.edges)} edges"
        return (
            f"{self.method} circuit of {self.origin.task} in {self.origin.model}: {heads} heads, "
            f"{len(self.nodes) - heads} MLPs{edges}"
        )

    def evaluate(
        self, model: Model, data: Prompts, *, metric: Metric | None = None, memory_gib: float | None = None
    ) -> Evaluation:
        """The metric of each prompt under the full model, this circuit alone and the empty one.

        `metric`: default that of the search. Raises ResultsError for another model or task.
        """
        return evaluate(self, model, data, metric=metric, memory_gib=memory_gib)

    def plot(self, path: str | os.PathLike[str], *, ports: bool = False) -> None:
        """Draw its graph in the format that the suffix names: png, svg, pdf, html, dot, graphml or json.

        `ports`: heads' q, k and v apart. Raises UnknownName for another suffix, ResultsError for a path that cannot
        be written.
        """
        # Pictures are a view of a circuit: looked up when asked for, so that nothing below them imports them.
        draw = import_module("patchpoint.plots.circuit_files").draw_circuits
        shape = Shape.of(self.scores, self.nodes)
        draw([self], Path(path), ports=ports, n_layers=shape.n_layers, n_heads=shape.n_heads)

    def check(self, model: Model) -> None:
        """Raise ResultsError unless it was found on this very model."""
        if self.origin.model_fingerprint != model.fingerprint:
            raise ResultsError(
                f"this circuit was found in {self.origin.model}, whose weights or configuration are not those of "
                f"{model.name}; load that model, or find the circuit again"
            )

    def check_data(self, data: Prompts) -> None:
        """Raise ResultsError unless these are prompts of the task that it was found on."""
        task = "pairs" if data.header is None else data.header.task
        if task != self.origin.task:
            raise ResultsError(
                f"this circuit does {self.origin.task}, the prompts are of {task}; to see what it does there, ask for "
                "the cross-task table"
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON, whole or not at all. ResultsError when it cannot be written."""
        document = {
            "patchpoint": "circuit",
            "version": VERSION,
            "method": self.method,
            "settings": dict(self.settings),
            "origin": asdict(self.origin),
            "nodes": self.nodes,
            "edges": self.edges,
            "scores": {
                "dims": self.scores.dims,
                "coords": {str(dim): self.scores[dim].values.tolist() for dim in self.scores.dims},
                "values": _without_nan(self.scores.values.tolist()),
            },
            "steps": [asdict(step) for step in self.steps],
        }
        write_whole(Path(path), json.dumps(document, allow_nan=False))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Circuit":
        """A circuit that `save` wrote. ResultsError for anything else."""
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ResultsError(f"cannot read {str(path)!r}: {error.strerror or error}") from None
        except ValueError:
            raise ResultsError(f"{str(path)!r} is no JSON, so no circuit") from None
        if not isinstance(document, dict) or document.get("patchpoint") != "circuit":
            raise ResultsError(f"{str(path)!r} is no circuit; give a file that a circuit was saved to")
        if document.get("version") != VERSION:
            raise ResultsError(
                f"{str(path)!r} is a circuit of version {document.get('version')}; this one reads {VERSION}"
            )
        try:
            return _circuit(document)
        except (KeyError, TypeError, ValueError) as error:
            raise ResultsError(
                f"{str(path)!r} is a damaged circuit ({type(error).__name__}: {error}); find it again"
            ) from None


def _circuit(document: Mapping[str, Any]) -> Circuit:
    scores, edges = document["scores"], document["edges"]
    return Circuit(
        nodes=tuple(map(str, document["nodes"])),
        edges=None if edges is None else tuple((str(sender), str(port)) for sender, port in edges),
        scores=xr.DataArray(
            np.array(scores["values"], dtype=np.float32),
            dims=tuple(scores["dims"]),
            coords={dim: list(names) for dim, names in scores["coords"].items()},
        ),
        method=str(document["method"]),
        settings=dict(document["settings"]),
        origin=Origin(**document["origin"]),
        steps=tuple(Step(**step) for step in document["steps"]),
    )


def _without_nan(values: Any) -> Any:
    if isinstance(values, list):
        return [_without_nan(value) for value in values]
    return None if values != values else values


def nodes_of(model: Model, edges: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Heads and MLPs that some edges touch, in the order of the model. InvalidArgument for edges that cannot be."""
    graph = Graph.of(model)
    touched = set()
    for edge in edges:
        sender, port = graph.number(edge)
        touched |= {graph.senders[sender], graph.ports[port].node}
    return tuple(str(node) for node in graph.senders[1:] if node in touched)
