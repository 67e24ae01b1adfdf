"""Which outputs a set of kept edges lets each port hear, and which nodes a change can reach through them.

A port that hears most senders reads the stream as it is, less what the removed ones changed; one that hears few
reads the corrupted stream plus what the kept ones change. So with every edge kept nothing is taken away, with none
nothing is added, and both are exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patchpoint.models.families import Block

from .edges import Graph, KeptEdges, kept_edges

if TYPE_CHECKING:
    from patchpoint.engine.model import Model


@dataclass(frozen=True, eq=False)
class Inlet:
    """How ports put their inputs together from one table of what senders changed."""

    natural: Bool[Tensor, " port"]
    """True: from the stream as it is, less removed senders; False: from another one, plus kept senders."""
    weights: Float[Tensor, "port sender"]

    @cached_property
    def silent(self) -> bool:
        """Whether no single sender is added or taken away."""
        return not self.weights.any()

    @cached_property
    def idle(self) -> bool:
        """Whether the ports cannot hear any sender of the table."""
        return self.silent and not self.natural.any()

    def read(
        self, start: Float[Tensor, "row port d_model"], changes: Float[Tensor, "row sender d_model"]
    ) -> Float[Tensor, "row port d_model"]:
        """The ports' inputs: where each starts, plus its weighted share of the senders' changes.

        Within `start`, so use only the result.
        """
        if self.silent:
            return start
        n_ports, n_senders = self.weights.shape
        weights = self.weights.expand(len(start), n_ports, n_senders)
        return start.baddbmm_(weights, changes[:, :n_senders])


@dataclass(frozen=True, eq=False)
class Route:
    """What a change of some senders reaches: inlets by layer, over the reached senders that a port must tell apart.

    A layer's heads have one inlet where all their ports hear the same, else one for queries, keys and values each.
    """

    heads: dict[int, tuple[Inlet, ...]]
    mlps: dict[int, Inlet]
    logits: Inlet
    reached: frozenset[int]
    """Senders that it reaches and that the logits can hear."""
    stored: dict[int, int]
    """Place of those senders in the table of changes."""


@dataclass(frozen=True, eq=False)
class Wiring:
    """The kept edges of a model, port by port."""

    model: "Model"
    graph: Graph
    kept: Bool[Tensor, "sender port"]

    @classmethod
    def of(cls, model: "Model", kept: KeptEdges) -> "Wiring":
        """The wiring of a model under a set of kept edges, as `kept_edges` takes it."""
        return cls(model, Graph.of(model), kept_edges(model, kept))

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The model's layers."""
        return self.model.adapter.blocks

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which differences are taken and added up: at least float32."""
        return torch.promote_types(self.model.dtype, torch.float32)

    def heads_kept(self, layer: int) -> list[Bool[Tensor, "sender port"]]:
        """Kept edges into a layer's heads: those of q, k and v, or of one port where all hear the same."""
        parts = [self.kept[:, numbers] for numbers in self.graph.head_ports(layer)]
        first = parts[0][:, :1]
        return [first] if all((part == first).all() for part in parts) else parts

    def mlp_kept(self, layer: int) -> Bool[Tensor, "sender port"]:
        """Kept edges into a layer's MLP."""
        return self.kept[:, [self.graph.mlp_port(layer)]]

    def inlet(self, kept: Bool[Tensor, "sender port"]) -> Inlet:
        """What ports hear of all the senders of a table."""
        return _inlet(kept, range(len(kept)), self._like)

    @cached_property
    def couples_heads(self) -> bool:
        """Whether a change of one head changes what others write: a norm of the whole sum is behind them."""
        block = self.blocks[0]
        size = (2, block.n_heads, block.d_head)
        z = torch.ones(size, dtype=self.model.dtype, device=self.model.device)
        z[1, 0] = 2.0
        with self.model.block(0):
            first, second = block.heads_out(z)
        return not torch.equal(first[1:], second[1:])

    @cached_property
    def heard(self) -> Bool[Tensor, " sender"]:
        """Which senders the logits can hear through kept edges, directly or through others."""
        heard = self.kept[:, -1].clone()
        for layer in reversed(range(len(self.blocks))):
            if heard[self.graph.mlp(layer)]:
                heard |= self.mlp_kept(layer)[:, 0]
            mine = self.graph.heads(layer)
            if self.couples_heads and heard[mine].any():
                heard[mine] = True
            ports = torch.tensor(self.graph.head_ports(layer))[:, heard[mine]]
            heard |= self.kept[:, ports.flatten()].any(1)
        return heard

    def route(self, changed: Sequence[int], layer: int) -> Route:
        """What a change of some senders of one layer reaches on its way to the logits."""
        reached = sorted(changed)
        heads: dict[int, tuple[list[Bool[Tensor, "sender port"]], int]] = {}
        mlps: dict[int, tuple[Bool[Tensor, "sender port"], int]] = {}
        for above in range(layer, len(self.blocks)):
            before = len(reached)
            if above > layer and (touched := self._touched_heads(above, reached)):
                heads[above] = self.heads_kept(above), before
                reached += touched
            heard = before if self.blocks[above].parallel else len(reached)
            mlp = self.graph.mlp(above)
            if self.heard[mlp] and mlp not in reached and self.mlp_kept(above)[reached[:heard]].any():
                mlps[above] = self.mlp_kept(above), heard
                reached.append(mlp)
        logits = self.kept[:, -1:]
        wanted = [(k, n) for parts, n in heads.values() for k in parts]
        wanted += [*mlps.values(), (logits, len(reached))]
        stored = _told_apart(wanted, reached)

        def inlet(kept: Tensor, n: int) -> Inlet:
            return _inlet(
                kept[reached[:n]], [i for i, s in enumerate(reached[:n]) if s in stored], self._like
            )

        return Route(
            {k: tuple(inlet(part, n) for part in parts) for k, (parts, n) in heads.items()},
            {k: inlet(kept, n) for k, (kept, n) in mlps.items()},
            inlet(logits, len(reached)),
            frozenset(reached),
            stored,
        )

    @property
    def _like(self) -> Tensor:
        return torch.empty((), dtype=self.dtype, device=self.model.device)

    def _touched_heads(self, layer: int, reached: list[int]) -> list[int]:
        """Heads of a layer that hear a reached sender and that the logits can hear."""
        ports = torch.tensor(self.graph.head_ports(layer))
        touched = self.kept[reached][:, ports.flatten()].any(0).view(ports.shape).any(0)
        if self.couples_heads and touched.any():
            touched[:] = True
        first = self.graph.heads(layer).start
        return [first + head for head in touched.nonzero()[:, 0].tolist() if self.heard[first + head]]


def _natural(kept: Bool[Tensor, "sender port"]) -> Bool[Tensor, " port"]:
    return 2 * kept.sum(0) > len(kept)


def _weights(kept: Bool[Tensor, "sender port"]) -> Int[Tensor, "port sender"]:
    return torch.where(_natural(kept), kept.int() - 1, kept.int()).T


def _inlet(kept: Bool[Tensor, "sender port"], told_apart: Sequence[int], like: Tensor) -> Inlet:
    weights = _weights(kept)[:, list(told_apart)]
    return Inlet(_natural(kept).to(like.device), weights.to(like))


def _told_apart(wanted: Sequence[tuple[Tensor, int]], reached: list[int]) -> dict[int, int]:
    """Reached senders that some port adds or takes away by itself, in their order, with their places."""
    apart = torch.zeros(len(reached), dtype=torch.bool)
    for kept, n in wanted:
        apart[:n] |= _weights(kept[reached[:n]]).any(0)
    return {reached[i]: place for place, i in enumerate(apart.nonzero()[:, 0].tolist())}
