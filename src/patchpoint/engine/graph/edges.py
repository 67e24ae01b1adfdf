"""Edges by name and by number: from a sender's output to a port that can read it."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from patchpoint.errors import InvalidArgument, UnknownName

from .nodes import PARTS, Node, Port, n_readable, ports, senders

if TYPE_CHECKING:
    from patchpoint.engine.model import Model

Edge: TypeAlias = tuple[Node | str, Port | str]
"""Sender and port, as objects or by name: `("9.1", "10.0.q")`."""
KeptEdges: TypeAlias = np.ndarray | Tensor | Iterable[Edge]


@dataclass(frozen=True, eq=False)
class Graph:
    """A model's senders and ports, numbered in the order in which a token meets them."""

    senders: tuple[Node, ...]
    ports: tuple[Port, ...]
    readable: Bool[Tensor, "sender port"]
    """Which port can read which sender."""
    n_heads: int

    @classmethod
    def of(cls, model: "Model") -> "Graph":
        """The graph of a model, on the CPU."""
        listed, read_by = senders(model), ports(model)
        reach = torch.tensor([n_readable(model, port) for port in read_by])
        return cls(listed, read_by, torch.arange(len(listed))[:, None] < reach, model.n_heads)

    def heads(self, layer: int) -> slice:
        """Numbers of a layer's heads among the senders."""
        first = 1 + layer * (self.n_heads + 1)
        return slice(first, first + self.n_heads)

    def mlp(self, layer: int) -> int:
        """Number of a layer's MLP among the senders."""
        return 1 + layer * (self.n_heads + 1) + self.n_heads

    def head_ports(self, layer: int) -> list[list[int]]:
        """Numbers of a layer's head ports: those of all heads' queries, keys and values, [part][head]."""
        first, step = layer * (len(PARTS) * self.n_heads + 1), len(PARTS)
        return [[first + head * step + part for head in range(self.n_heads)] for part in range(step)]

    def mlp_port(self, layer: int) -> int:
        """Number of a layer's MLP among the ports."""
        return self.head_ports(layer)[-1][-1] + 1

    def number(self, edge: Edge) -> tuple[int, int]:
        """Numbers of an edge's sender and port; UnknownName, or InvalidArgument where it cannot be read."""
        sender, port = (str(end) for end in edge)
        for kind, name, known in (("sender", sender, self._senders), ("port", port, self._ports)):
            if name not in known:
                raise UnknownName(kind, name, known)
        found = self._senders[sender], self._ports[port]
        if not self.readable[found]:
            raise InvalidArgument(
                f"port {port} cannot read {sender}, which writes no earlier; name a sender below it"
            )
        return found

    def name(self, sender: int, port: int) -> str:
        """An edge by numbers as text: `9.1 -> 10.0.q`."""
        return f"{self.senders[sender]} -> {self.ports[port]}"

    @cached_property
    def _senders(self) -> dict[str, int]:
        return {str(node): number for number, node in enumerate(self.senders)}

    @cached_property
    def _ports(self) -> dict[str, int]:
        return {str(port): number for number, port in enumerate(self.ports)}


def kept_edges(model: "Model", kept: KeptEdges) -> Bool[Tensor, "sender port"]:
    """Kept edges as a table on the CPU, False wherever a port cannot read a sender.

    `kept` is such a table (bool, numpy or torch; what a port cannot read is ignored) or any number of edges by
    name or as objects. Raises InvalidArgument for other shapes, types and edges that cannot be, UnknownName.
    """
    graph = Graph.of(model)
    if isinstance(kept, np.ndarray):
        kept = torch.tensor(kept)
    if isinstance(kept, Tensor):
        if kept.dtype != torch.bool or kept.shape != graph.readable.shape:
            raise InvalidArgument(
                f"a table of kept edges is bool of shape {tuple(graph.readable.shape)} (sender, port); "
                f"got {str(kept.dtype).removeprefix('torch.')} of shape {tuple(kept.shape)}"
            )
        return kept.cpu() & graph.readable
    table = torch.zeros_like(graph.readable)
    for edge in kept:
        table[graph.number(edge)] = True
    return table
