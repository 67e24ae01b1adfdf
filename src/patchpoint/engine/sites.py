"""Sites, edits and variants: what can be changed inside a model, as plain data.

Components of one layer, in the order in which a token passes through it: the stream as it comes in, each head's
own copy of it, projections, attention probabilities, each head's mixture of values, what attention adds, the
stream between, the MLP's own copy of it, its neurons, what it adds, the stream as it goes out. `embed` comes
before layer 0, `final` behind the last one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from patchpoint.errors import InvalidArgument, UnknownName

from .sources import Source

if TYPE_CHECKING:
    from .run import Run

COMPONENTS = (
    "embed",
    "resid_pre",
    "q_input",
    "k_input",
    "v_input",
    "q",
    "k",
    "v",
    "pattern",
    "z",
    "attn_out",
    "resid_mid",
    "mlp_in",
    "mlp_post",
    "mlp_out",
    "resid_post",
    "final",
)
PORTS = ("q_input", "k_input", "v_input")
KV_HEADS = ("k", "v")
"""Components with one head per key/value head; others of PER_HEAD have one per query head."""
PER_HEAD = (*PORTS, "q", *KV_HEADS, "pattern", "z")
OPS = ("replace", "add", "scale")

Op = Literal["replace", "add", "scale"]
Numbers = int | tuple[int, ...] | None


@dataclass(frozen=True)
class Site:
    """One place in the model.

    `layer` counts from 0, negative ones from the end; `embed` is of layer 0, `final` of layer -1. `positions` are
    token positions from 0, negative ones count from each prompt's end; None means every token. `head` (a number
    or several) is for components with heads, `neuron` for `mlp_post`; None means all of them, side by side.
    `k` and `v` have the model's key/value heads, everything else its query heads. `q`, `k`: with positions
    rotated in. `q_input`, `k_input`, `v_input`, `mlp_in`: a head's or the MLP's own copy of the stream, before
    the norm. `pattern`: attention probabilities of a query token over all tokens. `mlp_post`: neurons behind
    activation and gate. `final`: what the unembedding reads, behind the final norm.
    """

    layer: int
    component: str
    positions: Numbers = None
    head: Numbers = None
    neuron: Numbers = None

    def __post_init__(self) -> None:
        if self.component not in COMPONENTS:
            raise UnknownName("component", self.component, COMPONENTS)
        if self.head is not None and self.component not in PER_HEAD:
            raise InvalidArgument(f"{self.component} has no heads; leave out head={self.head}")
        if self.neuron is not None and self.component != "mlp_post":
            raise InvalidArgument(f"{self.component} has no neurons; leave out neuron={self.neuron}")
        if self.component == "embed" and self.layer != 0:
            raise InvalidArgument(f"embed belongs to layer 0, got layer={self.layer}")
        object.__setattr__(self, "positions", _listed(self.positions, "positions", "every token"))
        object.__setattr__(self, "head", _one_or_several(self.head, "head", "all heads"))
        object.__setattr__(self, "neuron", _one_or_several(self.neuron, "neuron", "all neurons"))

    @property
    def picked(self) -> tuple[int, ...] | None:
        """Heads or neurons named; None: all there are."""
        return _listed(self.head if self.neuron is None else self.neuron, "head", "all")

    def __str__(self) -> str:
        head = "" if self.head is None else f".{_joined(self.head)}"
        neuron = "" if self.neuron is None else f" [{_joined(self.neuron)}]"
        where = "" if self.positions is None else f" @ {_joined(self.positions)}"
        return f"{self.layer}{head} {self.component}{neuron}{where}"


def _joined(numbers: int | tuple[int, ...]) -> str:
    return str(numbers) if isinstance(numbers, int) else ",".join(map(str, numbers))


def _listed(numbers: object, name: str, without: str) -> tuple[int, ...] | None:
    if numbers is None:
        return None
    listed = tuple(int(n) for n in numbers) if isinstance(numbers, Iterable) else (int(numbers),)  # type: ignore[call-overload]
    if not listed:
        raise InvalidArgument(f"{name} is empty; leave it out to mean {without}")
    if len(set(listed)) != len(listed):
        raise InvalidArgument(f"{name} {listed} names one twice")
    return listed


def _one_or_several(numbers: object, name: str, without: str) -> int | tuple[int, ...] | None:
    listed = _listed(numbers, name, without)
    return listed if listed is None or isinstance(numbers, Iterable) else listed[0]


@dataclass(frozen=True, eq=False)
class Edit:
    """A change of one site: replace it, add to it or scale it.

    `value` is a number; a tensor of shape [width], [pos, width] or [prompt, pos, width] in the order of
    `site.positions`; another Run whose activations at the same site are taken (prompt by prompt; a Run of
    one prompt serves all); or a Source (another prompt, a mean over prompts, noise).

    width: d_model, for `q`, `k`, `v` and `z` d_head times the number of heads named, for `pattern` the prompt's
    number of tokens times the number of heads named, for `mlp_post` the number of neurons named, for `embed` the
    embedding's and for `final` the unembedding's. Each head named of `q_input`, `k_input`, `v_input` gets the
    same d_model numbers.
    """

    site: Site
    op: Op
    value: "float | Tensor | Run | Source"

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
    """The base run plus these edits, applied in this order where they meet at one site.

    `prompts`: on which prompts of the batch they are made (None: all); the others stay as in the base run.
    """

    edits: tuple[Edit, ...]
    name: str = ""
    prompts: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "edits", tuple(self.edits))
        if self.prompts is not None:
            object.__setattr__(self, "prompts", tuple(self.prompts))

    def __str__(self) -> str:
        return self.name or "; ".join(f"{edit.op} {edit.site}" for edit in self.edits) or "base"


def as_variant(variant: Variant | Edit | Sequence[Edit]) -> Variant:
    """A variant from a variant, one edit or several."""
    if isinstance(variant, Variant):
        return variant
    return Variant((variant,) if isinstance(variant, Edit) else tuple(variant))
