"""Where the parts of a circuit stand: layers from the bottom up, heads side by side, MLPs in a lane of their own."""

from dataclasses import dataclass

from patchpoint.engine.graph.nodes import Node

from .circuit_parts import Parts, node_of, part_of

Point = tuple[float, float]
Curve = tuple[Point, Point, Point, Point]

MLP_GAP = 0.5
"""Room between the last head and the lane of MLPs, in lanes."""
MLP_RISE = 0.5
"""An MLP reads the heads of its layer, so it stands higher, in layers."""
PORT_STEP, PORT_DROP = 0.27, 0.36
REACH = 0.45
"""How far an edge leaves and arrives upright, as a share of its height."""
BOW = 0.32
BOW_MOST = 1.1


@dataclass(frozen=True)
class Layout:
    """Places in lanes (x) and layers (y) for a model of that size, with or without ports below heads."""

    n_layers: int
    n_heads: int
    ports: bool

    @classmethod
    def of(cls, parts: Parts) -> "Layout":
        """That of these parts."""
        return cls(parts.n_layers, parts.n_heads, parts.ports)

    @property
    def mlp_lane(self) -> float:
        """The x of MLPs."""
        return self.n_heads + MLP_GAP

    @property
    def ends(self) -> tuple[Point, Point]:
        """The lower left and the upper right corner of everything."""
        return (-0.75, -1.6), (self.mlp_lane + 1.2, self.n_layers + 0.6)

    def place(self, node: Node) -> Point:
        """Where a node stands."""
        return {
            "embed": (self.mlp_lane / 2, -1.0),
            "logits": (self.mlp_lane / 2, float(self.n_layers)),
            "mlp": (self.mlp_lane, node.layer + MLP_RISE),
            "head": (float(node.head), float(node.layer)),
        }[node.kind]

    def entry(self, receiver: str) -> Point:
        """Where edges into a node or a port end."""
        x, y = self.place(node_of(receiver))
        part = part_of(receiver)
        return (x + PORT_STEP * ("qkv".index(part) - 1), y - PORT_DROP) if part else (x, y)

    def curve(self, sender: str, receiver: str) -> Curve:
        """The four points of a cubic curve; one that would run through nodes of its own lane bows out."""
        (x0, y0), (x1, y1) = self.place(node_of(sender)), self.entry(receiver)
        rise = REACH * (y1 - y0)
        bow = 0.0
        if abs(x1 - x0) < MLP_GAP:
            side = 1 if x0 >= self.mlp_lane or int(x0 + y0) % 2 else -1
            bow = side * min(BOW_MOST, BOW + 0.06 * abs(y1 - y0))
        return (x0, y0), (x0 + bow, y0 + rise), (x1 + bow, y1 - rise), (x1, y1)


def middle(curve: Curve) -> Point:
    """The point half way along a curve."""
    weights = (0.125, 0.375, 0.375, 0.125)
    x, y = (sum(w * point[axis] for w, point in zip(weights, curve, strict=True)) for axis in (0, 1))
    return x, y
