"""What is done to a prompt's embeddings in the corrupted run of causal tracing: one draw, and what draws it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from patchpoint.engine import Edit, Model, Site
from patchpoint.errors import InvalidArgument
from patchpoint.tasks.subject import SubjectPrompt

from .noise import Shape

GRAMMAR = (
    "sX (X times the standard deviation of the subjects' embeddings, such as s3), a standard deviation X >= 0, "
    "uX (uniform from -X to X), m (multivariate Gaussian with the embeddings' mean and covariance), "
    "tK (multivariate Student-t, K > 2 degrees of freedom), replace: in front of one of these, shuffle, or an array"
)


@dataclass(frozen=True, eq=False)
class Corruption:
    """One draw: what is added to, or stands in place of, the embeddings at some positions of one prompt.

    `std`: standard deviation of the noise in units of the embedding; None where no single number describes it.
    Raises InvalidArgument for values of another shape.
    """

    positions: tuple[int, ...]
    op: Literal["add", "replace"]
    values: Float[Tensor, "sample token d_embed"]
    std: float | None
    text: str

    def __post_init__(self) -> None:
        shape = tuple(self.values.shape)
        if len(shape) != 3 or not shape[0] or shape[1] != len(self.positions) or not self.positions:
            raise InvalidArgument(
                f"a corruption of {len(self.positions)} tokens has values of shape {shape}; give [samples, "
                "tokens, d_embed], with at least one of each"
            )

    @property
    def edit(self) -> Edit:
        """The edit of a run that has one prompt per sample."""
        return Edit(Site(0, "embed", self.positions), self.op, self.values)


@runtime_checkable
class Corruptor(Protocol):
    """A kind of corruption."""

    @property
    def text(self) -> str:
        """As it is written on a command line; a word in any case."""

    def fitted(self, model: Model, prompts: Iterable[SubjectPrompt]) -> "Corruptor":
        """Measured over these prompts where it is relative to them; itself otherwise, and for no prompts."""

    def drawn(self, model: Model, prompt: SubjectPrompt, samples: int, seed: int) -> Corruption:
        """A draw for one prompt; what was not fitted is measured over it alone.

        The same seed gives the same numbers on every device and number format.
        Raises InvalidArgument or PromptError.
        """


def shape_of(model: Model, prompt: SubjectPrompt, samples: int) -> Shape:
    """Of noise for a prompt's subject; InvalidArgument for less than one sample."""
    if samples < 1:
        raise InvalidArgument(f"samples must be at least 1, got {samples}")
    start, stop = prompt.subject_span
    return samples, stop - start, model.d_embed


def added(
    model: Model,
    prompt: SubjectPrompt,
    values: Float[Tensor, "sample token d_embed"],
    std: float | None,
    text: str,
) -> Corruption:
    """Noise on a prompt's subject; InvalidArgument where the model's number format cannot hold it."""
    if not bool(values.to(model.dtype).isfinite().all()):
        name = str(model.dtype).removeprefix("torch.")
        raise InvalidArgument(
            f"noise {text} has numbers that {name} cannot hold; give a lower level or load the model in a "
            "wider number format"
        )
    return Corruption(tuple(range(*prompt.subject_span)), "add", values, std, text)


def not_understood(noise: object) -> InvalidArgument:
    """The error for what is no noise."""
    return InvalidArgument(f"noise {str(noise)!r} is not understood; give {GRAMMAR}")


def check_number(letter: str, number: object, least: float) -> None:
    """Refuse, as if it were written, what is no finite number from `least` on."""
    try:
        level = float(number) if isinstance(number, Real) and not isinstance(number, bool) else math.nan
    except OverflowError:
        level = math.inf
    if not least <= level < math.inf:
        raise not_understood(f"{letter}{number}".removesuffix(".0"))


def written(number: float) -> str:
    """The shortest text that reads as this number again."""
    return repr(float(number)).removesuffix(".0")
