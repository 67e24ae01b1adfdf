"""From scores of edges to edges: the largest, those above a threshold, or greedily from the logits downwards.

Ties go to the edge whose sender, then whose port, comes first in the model.
"""

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int

from patchpoint.engine.graph.edges import Edge, Graph
from patchpoint.engine.graph.nodes import LOGITS, PARTS
from patchpoint.errors import InvalidArgument, UnknownName

from .circuit import Setting

Edges: TypeAlias = tuple[tuple[str, str], ...]
"""Names of sender and port, in the order of the model's senders, then of its ports."""

DEFAULT_SHARE = 0.05
"""Of all edges, where neither a number nor a threshold is given."""

RANKINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"magnitude": np.abs, "value": np.asarray}
"""By name, what makes one score larger than another: its size, or how much its edge raises the metric."""


def top_edges(scores: xr.DataArray, n: int, *, by: str = "magnitude") -> Edges:
    """The n edges of the largest scores (sender, port), NaN: no such edge. UnknownName, InvalidArgument."""
    ranks = _ranks(scores, by)
    _check_number(n, int(np.isfinite(ranks).sum()))
    order = np.argsort(-ranks.ravel(), kind="stable")
    table = np.zeros(ranks.size, dtype=bool)
    table[order[:n]] = True
    return _named(scores, table.reshape(ranks.shape))


def edges_above(scores: xr.DataArray, threshold: float, *, by: str = "magnitude") -> Edges:
    """Every edge whose score is at least the threshold. UnknownName."""
    return _named(scores, _ranks(scores, by) >= threshold)


def greedy_edges(scores: xr.DataArray, n: int, *, by: str = "magnitude") -> Edges:
    """n edges, one after the other: the best of those whose receiver already has a path to the logits.

    A head's q, k and v lead on as that head. Fewer than n where no more have such a path.
    Hanna et al. 2024 (https://arxiv.org/abs/2403.17806), section 3. UnknownName, InvalidArgument.
    """
    ranks = _ranks(scores, by)
    _check_number(n, int(np.isfinite(ranks).sum()))
    readers = _readers(*_names(scores))
    ports_of = [np.flatnonzero(readers == node) for node in range(len(ranks) + 1)]
    table = np.zeros(ranks.shape, dtype=bool)
    within = np.zeros(len(ranks) + 1, dtype=bool)
    waiting: list[tuple[float, int, int]] = []

    def open_node(node: int) -> None:
        within[node] = True
        senders, at = np.nonzero(np.isfinite(ranks[:, ports_of[node]]))
        ports = ports_of[node][at]
        for edge in zip((-ranks[senders, ports]).tolist(), senders.tolist(), ports.tolist(), strict=True):
            heapq.heappush(waiting, edge)

    open_node(len(ranks))
    while waiting and n:
        _, sender, port = heapq.heappop(waiting)
        table[sender, port] = True
        n -= 1
        if not within[sender]:
            open_node(sender)
    return _named(scores, table)


SELECTIONS: dict[str, Callable[..., Edges]] = {"top": top_edges, "greedy": greedy_edges}
"""By name, how a number of edges is chosen."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which edges to keep by their scores: `n_edges` by one of SELECTIONS, or all of at least a threshold.

    With neither it is DEFAULT_SHARE of all edges. Raises UnknownName, InvalidArgument.
    """

    n_edges: int | None = None
    threshold: float | None = None
    select: str = "top"
    by: str = "magnitude"

    def __post_init__(self) -> None:
        if self.select not in SELECTIONS:
            raise UnknownName("selection", self.select, SELECTIONS)
        if self.by not in RANKINGS:
            raise UnknownName("ranking", self.by, RANKINGS)
        if self.n_edges is not None:
            _check_number(self.n_edges)
        if self.threshold is not None and (self.n_edges is not None or self.select != "top"):
            raise InvalidArgument("a threshold chooses the edges by itself; leave out n_edges and select")

    def of(self, scores: xr.DataArray) -> Edges:
        """The edges chosen, less those on no path from the embedding to the logits. InvalidArgument."""
        if self.threshold is None:
            edges = SELECTIONS[self.select](scores, self.number(scores), by=self.by)
        else:
            edges = edges_above(scores, self.threshold, by=self.by)
        senders, ports = _names(scores)
        rows, columns = ({name: i for i, name in enumerate(names)} for names in (senders, ports))
        table = np.zeros(scores.shape, dtype=bool)
        for sender, port in edges:
            table[rows[sender], columns[port]] = True
        return _named(scores, on_paths(table, _readers(senders, ports)))

    def number(self, scores: xr.DataArray) -> int:
        """How many edges are asked for, those without a path among them."""
        if self.n_edges is not None:
            return self.n_edges
        return max(1, round(DEFAULT_SHARE * int(np.isfinite(scores.values).sum())))

    def settings(self, scores: xr.DataArray) -> dict[str, Setting]:
        """As a circuit notes them."""
        if self.threshold is not None:
            return {"threshold": self.threshold, "by": self.by}
        return {"n_edges": self.number(scores), "select": self.select, "by": self.by}


def connected(graph: Graph, edges: Iterable[Edge]) -> Edges:
    """Those edges that lie on a path from the embedding to the logits; the others change nothing.

    Where a norm stands behind the sum of a layer's heads (OLMo 2), heads also act on each other through it: that
    counts as no path. Raises UnknownName or InvalidArgument for edges that cannot be.
    """
    senders, ports = [str(node) for node in graph.senders], [str(port) for port in graph.ports]
    table = np.zeros((len(senders), len(ports)), dtype=bool)
    for edge in edges:
        table[graph.number(edge)] = True
    table = on_paths(table, _readers(senders, ports))
    return tuple((senders[sender], ports[port]) for sender, port in np.argwhere(table).tolist())


def on_paths(
    table: Bool[np.ndarray, "sender port"], readers: Int[np.ndarray, " port"]
) -> Bool[np.ndarray, "sender port"]:
    """The edges of a table that lead on, through kept edges, from the first sender to the logits.

    `readers`: the sender that each port's node is; one number more than there are: the logits.
    """
    reached, heard = np.zeros((2, len(table) + 1), dtype=bool)
    reached[0] = heard[-1] = True
    for node in range(1, len(table)):
        reached[node] = table[:, readers == node][reached[:-1]].any()
    for node in reversed(range(len(table))):
        heard[node] = heard[readers[table[node]]].any()
    found: Bool[np.ndarray, "sender port"] = table & reached[:-1, None] & heard[readers]
    return found


def _readers(senders: list[str], ports: list[str]) -> Int[np.ndarray, " port"]:
    """The number of the sender that each port's node is; one more than there are: the logits."""
    numbers = {str(LOGITS): len(senders)}
    for number, sender in enumerate(senders):
        numbers |= dict.fromkeys((sender, *(f"{sender}.{part}" for part in PARTS)), number)
    return np.array([numbers[port] for port in ports])


def _names(scores: xr.DataArray) -> tuple[list[str], list[str]]:
    return [str(name) for name in scores["sender"].values], [str(name) for name in scores["port"].values]


def _named(scores: xr.DataArray, table: Bool[np.ndarray, "sender port"]) -> Edges:
    senders, ports = _names(scores)
    return tuple((senders[sender], ports[port]) for sender, port in np.argwhere(table).tolist())


def _ranks(scores: xr.DataArray, by: str) -> Float[np.ndarray, "sender port"]:
    """What edges are ranked by, minus infinity where there is none."""
    if by not in RANKINGS:
        raise UnknownName("ranking", by, RANKINGS)
    if scores.dims != ("sender", "port"):
        raise InvalidArgument(
            f"scores of edges have the dims sender and port, got {', '.join(map(str, scores.dims)) or 'none'}; "
            "give the scores of an edge circuit"
        )
    return np.where(np.isnan(scores.values), -np.inf, RANKINGS[by](scores.values))


def _check_number(n: object, most: int | None = None) -> None:
    if isinstance(n, bool) or not isinstance(n, int) or n < 0 or (most is not None and n > most):
        limit = "of at least 0" if most is None else f"from 0 to {most}"
        raise InvalidArgument(f"the number of edges must be a whole number {limit}, got {n!r}")
