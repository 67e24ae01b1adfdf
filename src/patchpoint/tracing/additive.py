"""Corruption by noise that is added to the embeddings of the subject's tokens."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from patchpoint.engine import Model
from patchpoint.tasks.subject import SubjectPrompt

from .draw import Corruption, added, check_number, shape_of, written
from .noise import Spread, embedding_std, gaussian, given, uniform

MORE_THAN_2 = math.nextafter(2, 3)
"""Degrees of freedom from which a Student-t distribution has a covariance."""


@dataclass(frozen=True)
class Gaussian:
    """Gaussian noise of a given standard deviation, in units of the embedding, added to the subject."""

    std: float

    def __post_init__(self) -> None:
        check_number("", self.std, 0)

    @property
    def text(self) -> str:
        """The standard deviation."""
        return written(self.std)

    def fitted(self, model: Model, prompts: Iterable[SubjectPrompt]) -> "Gaussian":
        """Itself."""
        return self

    def drawn(self, model: Model, prompt: SubjectPrompt, samples: int, seed: int) -> Corruption:
        """A draw for one prompt."""
        values = gaussian(*shape_of(model, prompt, samples), self.std, seed)
        return added(model, prompt, values, self.std, self.text)


@dataclass(frozen=True)
class Scaled:
    """Gaussian noise of `factor` times the standard deviation of the subjects' embeddings, added to the subject.

    `unit`: that standard deviation, once measured. Meng et al. 2022, app. B, with factor 3.
    """

    factor: float
    unit: float | None = None

    def __post_init__(self) -> None:
        check_number("s", self.factor, 0)

    @property
    def text(self) -> str:
        """For example `s3`."""
        return f"s{written(self.factor)}"

    def fitted(self, model: Model, prompts: Iterable[SubjectPrompt]) -> "Scaled":
        """Measured over the subjects of all prompts."""
        at_hand = list(prompts)
        return replace(self, unit=embedding_std(model, at_hand)) if at_hand else self

    def drawn(self, model: Model, prompt: SubjectPrompt, samples: int, seed: int) -> Corruption:
        """A draw for one prompt."""
        unit = embedding_std(model, [prompt]) if self.unit is None else self.unit
        return replace(Gaussian(self.factor * unit).drawn(model, prompt, samples, seed), text=self.text)


@dataclass(frozen=True)
class Uniform:
    """Noise uniform from -bound to bound, in units of the embedding, added to the subject."""

    bound: float

    def __post_init__(self) -> None:
        check_number("u", self.bound, 0)

    @property
    def text(self) -> str:
        """For example `u0.2`."""
        return f"u{written(self.bound)}"

    def fitted(self, model: Model, prompts: Iterable[SubjectPrompt]) -> "Uniform":
        """Itself."""
        return self

    def drawn(self, model: Model, prompt: SubjectPrompt, samples: int, seed: int) -> Corruption:
        """A draw for one prompt."""
        values = uniform(shape_of(model, prompt, samples), self.bound, seed)
        return added(model, prompt, values, self.bound / math.sqrt(3), self.text)


@dataclass(frozen=True, eq=False)
class Multivariate:
    """Gaussian vectors with mean and covariance of the embeddings of all tokens of the prompts, added to the subject.

    The mean is added as well, as in the code of Meng et al. 2022.
    """

    spread: Spread | None = None

    @property
    def text(self) -> str:
        """`m`."""
        return "m"

    def fitted(self, model: Model, prompts: Iterable[SubjectPrompt]) -> "Multivariate":
        """Measured over all tokens of all prompts."""
        at_hand = list(prompts)
        return replace(self, spread=Spread.over(model, at_hand)) if at_hand else self

    def drawn(self, model: Model, prompt: SubjectPrompt, samples: int, seed: int) -> Corruption:
        """A draw for one prompt."""
        spread = self.spread or Spread.over(model, [prompt])
        values = spread.gaussian(shape_of(model, prompt, samples), seed)
        return added(model, prompt, values, None, self.text)


@dataclass(frozen=True, eq=False)
class Student:
    """Multivariate Student-t vectors around the same mean as `Multivariate`, added to the subject.

    As in the code of Meng et al. 2022 the whole vector, mean included, is scaled: see `Spread.student`.
    """

    degrees: float
    spread: Spread | None = None

    def __post_init__(self) -> None:
        check_number("t", self.degrees, MORE_THAN_2)

    @property
    def text(self) -> str:
        """For example `t3`."""
        return f"t{written(self.degrees)}"

    def fitted(self, model: Model, prompts: Iterable[SubjectPrompt]) -> "Student":
        """Measured over all tokens of all prompts."""
        at_hand = list(prompts)
        return replace(self, spread=Spread.over(model, at_hand)) if at_hand else self

    def drawn(self, model: Model, prompt: SubjectPrompt, samples: int, seed: int) -> Corruption:
        """A draw for one prompt."""
        spread = self.spread or Spread.over(model, [prompt])
        values = spread.student(shape_of(model, prompt, samples), self.degrees, seed)
        return added(model, prompt, values, None, self.text)


@dataclass(frozen=True, eq=False)
class Given:
    """The caller's own noise, added to the subject: finite, [samples, subject tokens, d_embed]."""

    values: Float[Tensor, "sample token d_embed"]

    @property
    def text(self) -> str:
        """`given`."""
        return "given"

    def fitted(self, model: Model, prompts: Iterable[SubjectPrompt]) -> "Given":
        """Itself."""
        return self

    def drawn(self, model: Model, prompt: SubjectPrompt, samples: int, seed: int) -> Corruption:
        """All of it, whatever `samples` and `seed` are."""
        _, *sizes = shape_of(model, prompt, 1)
        return added(model, prompt, given(self.values, *sizes), None, self.text)
