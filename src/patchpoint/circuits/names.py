"""Names of nodes, ports and edges without their model: order, kind, scores."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import xarray as xr
from jaxtyping import Float

from patchpoint.errors import InvalidArgument

Part: TypeAlias = str | tuple[str, str]
"""A node, or an edge as sender and port."""

NODE = re.compile(
    r"(?P<end>embed|logits)|mlp (?P<mlp>\d+)|(?P<layer>\d+)\.(?P<head>\d+)(?:\.(?P<port>[qkv]))?"
)
PORTS = {None: 0, "q": 0, "k": 1, "v": 2}


def model_order(name: str) -> tuple[int, int, int]:
    """A key that sorts nodes and ports as a token meets them. InvalidArgument for other names."""
    found = NODE.fullmatch(name)
    if found is None:
        raise InvalidArgument(
            f"{name!r} names no part of a model; parts are named 9.1, 9.1.q, mlp 4, embed, logits"
        )
    if found["end"]:
        return (-1, 0, 0) if name == "embed" else (sys.maxsize, 0, 0)
    if found["mlp"]:
        return int(found["mlp"]), sys.maxsize, 0
    return int(found["layer"]), int(found["head"]), PORTS[found["port"]]


def part_order(part: Part) -> tuple[tuple[int, int, int], ...]:
    """A key that sorts nodes, or edges by sender and then port."""
    return (model_order(part),) if isinstance(part, str) else tuple(map(model_order, part))


def part_kind(part: Part) -> str:
    """head, mlp, end (the embedding or the logits) or edge."""
    if not isinstance(part, str):
        return "edge"
    if part in ("embed", "logits"):
        return "end"
    return "mlp" if part.startswith("mlp ") else "head"


def part_text(part: Part) -> str:
    """A node's name, or an edge as `mlp 0 -> 9.1.q`."""
    return part if isinstance(part, str) else " -> ".join(part)


def scores_of(scores: xr.DataArray, parts: Sequence[Part]) -> Float[np.ndarray, " part"]:
    """The score of each node or edge, NaN where there is none or scores are of the other kind."""
    places = [{str(name): i for i, name in enumerate(scores[dim].values)} for dim in scores.dims]
    values, found = scores.values, np.full(len(parts), np.nan)
    for number, part in enumerate(parts):
        names = (part,) if isinstance(part, str) else part
        if len(names) == len(places) and all(
            name in place for name, place in zip(names, places, strict=True)
        ):
            found[number] = values[tuple(place[name] for name, place in zip(names, places, strict=True))]
    return found


@dataclass(frozen=True)
class Shape:
    """What of a model decides which parts it has. `sequential`: an MLP reads the heads of its own layer."""

    n_layers: int
    n_heads: int
    sequential: bool = False

    @classmethod
    def of(cls, scores: xr.DataArray, nodes: Sequence[str]) -> "Shape":
        """That of the model whose parts have these scores, whatever kind of parts."""
        names = {str(name) for dim in scores.dims for name in scores[dim].values} | set(nodes)
        inner = [model_order(name)[:2] for name in names if part_kind(name) != "end"]
        heads = [head for _, head in inner if head < sys.maxsize]
        n_layers, n_heads = 1 + max((layer for layer, _ in inner), default=-1), 1 + max(heads, default=-1)
        own = [(f"{layer}.{head}", f"mlp {layer}") for layer in range(n_layers) for head in range(n_heads)]
        return cls(n_layers, n_heads, bool(np.isfinite(scores_of(scores, own)).any()))

    @property
    def n_edges(self) -> int:
        """Edges from the embedding, heads and MLPs to all ports that can read them."""
        below = [1 + layer * (self.n_heads + 1) for layer in range(self.n_layers + 1)]
        within = self.n_layers * self.n_heads if self.sequential else 0
        return (3 * self.n_heads + 1) * sum(below[:-1]) + within + below[-1]
