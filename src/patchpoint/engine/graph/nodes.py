"""The computational graph of a decoder: who writes to the residual stream, and who reads it.

Senders are the embedding, every head and every MLP; receivers are ports: a head's q, k and v inputs, an MLP's
input and the logits. Both stand in the order in which a token meets them, so that the senders a port can read are
always the leading ones. Names: `embed`, `9.1`, `9.1.q`, `mlp 4`, `logits`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from patchpoint.engine.model import Model

PARTS = ("q", "k", "v")


@dataclass(frozen=True)
class Node:
    """The embedding, a head, an MLP, or the logits."""

    kind: str
    layer: int = 0
    head: int = 0

    def __str__(self) -> str:
        if self.kind == "head":
            return f"{self.layer}.{self.head}"
        return f"mlp {self.layer}" if self.kind == "mlp" else self.kind


@dataclass(frozen=True)
class Port:
    """Where a node reads the residual stream; `part` is q, k or v for heads and empty for others."""

    node: Node
    part: str = ""

    def __str__(self) -> str:
        return f"{self.node}.{self.part}" if self.part else str(self.node)


EMBED, LOGITS = Node("embed"), Node("logits")


def senders(model: "Model") -> tuple[Node, ...]:
    """The embedding, then layer by layer its heads and its MLP."""
    layers = range(model.n_layers)
    blocks = [[*(Node("head", k, h) for h in range(model.n_heads)), Node("mlp", k)] for k in layers]
    return (EMBED, *(node for block in blocks for node in block))


def ports(model: "Model") -> tuple[Port, ...]:
    """Layer by layer q, k and v of each head and the MLP's input; the logits last."""
    found = []
    for node in senders(model)[1:]:
        found += [Port(node, part) for part in PARTS] if node.kind == "head" else [Port(node)]
    return (*found, Port(LOGITS))


def n_readable(model: "Model", port: Port) -> int:
    """How many senders, the leading ones, a port can read."""
    node = port.node
    if node.kind == "logits":
        return 1 + model.n_layers * (model.n_heads + 1)
    below = 1 + node.layer * (model.n_heads + 1)
    sequential = node.kind == "mlp" and not model.adapter.blocks[node.layer].parallel
    return below + model.n_heads if sequential else below
