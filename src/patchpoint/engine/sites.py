"""Sites, edits and variants: what can be changed inside a model, as plain data.

Order of components within one layer, as a token passes through it:
`resid_pre`, `z`, `attn_out`, `resid_mid`, `mlp_out`, `resid_post`; `embed` comes before layer 0.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from patchpoint.errors import InvalidArgument, UnknownName

if TYPE_CHECKING:
    from .run import Run

COMPONENTS = ("embed", "resid_pre", "z", "attn_out", "resid_mid", "mlp_out", "resid_post")
PER_HEAD = ("z",)
OPS = ("replace", "add", "scale")

Op = Literal["replace", "add", "scale"]


@dataclass(frozen=True)
class Site:
    """One place in the model.

    `positions` are token positions from 0, negative ones count from each prompt's end; None means every token.
    `head` is for components with heads (`z`); None means all of them, side by side.
    """

    layer: int
    component: str
    positions: tuple[int, ...] | None = None
    head: int | None = None

    def __post_init__(self) -> None:
        if self.component not in COMPONENTS:
            raise UnknownName("component", self.component, COMPONENTS)
        if self.head is not None and self.component not in PER_HEAD:
            raise InvalidArgument(f"{self.component} has no heads; leave out head={self.head}")
        if self.component == "embed" and self.layer != 0:
            raise InvalidArgument(f"embed belongs to layer 0, got layer={self.layer}")
        object.__setattr__(self, "positions", _as_positions(self.positions))

    def __str__(self) -> str:
        head = "" if self.head is None else f".{self.head}"
        where = "" if self.positions is None else f" @ {','.join(map(str, self.positions))}"
        return f"{self.layer}{head} {self.component}{where}"


def _as_positions(positions: object) -> tuple[int, ...] | None:
    if positions is None:
        return None
    listed = tuple(int(p) for p in positions) if isinstance(positions, Iterable) else (int(positions),)  # type: ignore[call-overload]
    if not listed:
        raise InvalidArgument("positions is empty; leave it out to mean every token")
    if len(set(listed)) != len(listed):
        raise InvalidArgument(f"positions {listed} names a token twice")
    return listed


@dataclass(frozen=True, eq=False)
class Edit:
    """A change of one site: replace it, add to it or scale it.

    `value` is a number, a tensor of shape [width], [pos, width] or [prompt, pos, width] in the order of
    `site.positions`, or another Run whose activations at the same site are taken (prompt by prompt; a Run of
    one prompt serves all). width is d_model, or d_head for one head of `z`.
    """

    site: Site
    op: Op
    value: "float | Tensor | Run"

    def __post_init__(self) -> None:
        if self.op not in OPS:
            raise UnknownName("edit", self.op, OPS)
        if isinstance(self.value, Tensor) and self.value.ndim not in (1, 2, 3):
            raise InvalidArgument(
                f"the value of edit {self.site} has {self.value.ndim} axes; give [width], [pos, width] or "
                "[prompt, pos, width]"
            )


@dataclass(frozen=True, eq=False)
class Variant:
    """The base run plus these edits, applied in this order where they meet at one site."""

    edits: tuple[Edit, ...]
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "edits", tuple(self.edits))

    def __str__(self) -> str:
        return self.name or "; ".join(f"{edit.op} {edit.site}" for edit in self.edits) or "base"


def as_variant(variant: Variant | Edit | Sequence[Edit]) -> Variant:
    """A variant from a variant, one edit or several."""
    if isinstance(variant, Variant):
        return variant
    return Variant((variant,) if isinstance(variant, Edit) else tuple(variant))
