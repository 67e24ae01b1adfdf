"""Corruption by something else in place of embeddings: noise, their own order changed, or other words."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from patchpoint.engine import Model
from patchpoint.errors import InvalidArgument, PromptError
from patchpoint.models.tokens import encode
from patchpoint.tasks.subject import SubjectPrompt

from .additive import Gaussian, Given, Multivariate, Scaled, Student, Uniform
from .draw import Corruption, shape_of
from .noise import embeddings, generator

Noise = Gaussian | Scaled | Uniform | Multivariate | Student | Given


@dataclass(frozen=True)
class Replaced:
    """Noise instead of the embeddings of the subject's tokens. Raises InvalidArgument for anything but noise."""

    noise: Noise

    def __post_init__(self) -> None:
        if not isinstance(self.noise, Noise):
            raise InvalidArgument(
                f"{type(self.noise).__name__} is no noise that could stand instead of embeddings; "
                "give s3, 0.1, u0.2, m, t3 or an array"
            )

    @property
    def text(self) -> str:
        """For example `replace:s3`."""
        return f"replace:{self.noise.text}"

    def fitted(self, model: Model, prompts: Iterable[SubjectPrompt]) -> "Replaced":
        """Its noise measured over these prompts where it is relative to them."""
        return replace(self, noise=self.noise.fitted(model, prompts))

    def drawn(self, model: Model, prompt: SubjectPrompt, samples: int, seed: int) -> Corruption:
        """The numbers that the noise alone would add."""
        drawn = self.noise.drawn(model, prompt, samples, seed)
        return replace(drawn, op="replace", text=self.text)


@dataclass(frozen=True)
class Shuffled:
    """The embeddings of the subject's tokens permuted among themselves, anew for each sample.

    No draw leaves the subject as it was. Raises PromptError for a subject without two different tokens.
    """

    @property
    def text(self) -> str:
        """`shuffle`."""
        return "shuffle"

    def fitted(self, model: Model, prompts: Iterable[SubjectPrompt]) -> "Shuffled":
        """Itself."""
        return self

    def drawn(self, model: Model, prompt: SubjectPrompt, samples: int, seed: int) -> Corruption:
        """A draw for one prompt."""
        samples, n_tokens, _ = shape_of(model, prompt, samples)
        ids = prompt.ids[slice(*prompt.subject_span)]
        if len(set(ids)) == 1:
            what = "of one token" if n_tokens == 1 else "whose tokens are all the same"
            raise PromptError(
                f"a subject {what} cannot be shuffled, here {prompt.subject!r}; give another subject or noise"
            )
        random = generator(seed)
        orders = torch.stack([_other_order(torch.tensor(ids), random) for _ in range(samples)])
        values = embeddings(model, ids)[orders]
        return Corruption(tuple(range(*prompt.subject_span)), "replace", values, None, self.text)


def _other_order(ids: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """A permutation that changes `ids`, each such one as likely as any other."""
    while True:
        order = torch.randperm(len(ids), generator=random)
        if not torch.equal(ids[order], ids):
            return order


@dataclass(frozen=True)
class Twin:
    """The same prompt in other words of the same number of tokens, one sample per text.

    Where any text differs from the prompt, embeddings are replaced by those of each text's own tokens.
    Raises InvalidArgument without a text, PromptError for texts of another length or equal to the prompt.
    """

    texts: tuple[str, ...]

    def __post_init__(self) -> None:
        if isinstance(self.texts, str) or not self.texts:
            raise InvalidArgument(f"a twin needs a tuple of texts, got {self.texts!r}; give at least one")
        object.__setattr__(self, "texts", tuple(self.texts))

    @property
    def text(self) -> str:
        """`twin`."""
        return "twin"

    def fitted(self, model: Model, prompts: Iterable[SubjectPrompt]) -> "Twin":
        """Itself."""
        return self

    def drawn(self, model: Model, prompt: SubjectPrompt, samples: int, seed: int) -> Corruption:
        """All texts, whatever `samples` and `seed` are. Tokens put behind the prompt's text stay as they are."""
        own = encode(model.tokenizer, prompt.text, prompt.bos).ids
        assert prompt.ids[: len(own)] == own
        twins = [encode(model.tokenizer, text, prompt.bos).ids for text in self.texts]
        problems = [
            f"{text!r} has {len(ids)} tokens" if len(ids) != len(own) else f"{text!r} is the prompt itself"
            for text, ids in zip(self.texts, twins, strict=True)
            if len(ids) != len(own) or ids == own
        ]
        if problems:
            raise PromptError(
                f"twins of the prompt {prompt.text!r} have its {len(own)} tokens and are not all the same, but "
                f"{'; '.join(problems)}; give other words of as many tokens"
            )
        positions = tuple(p for p, ids in enumerate(zip(own, *twins, strict=True)) if len(set(ids)) > 1)
        values = torch.stack([embeddings(model, [ids[p] for p in positions]) for ids in twins])
        return Corruption(positions, "replace", values, None, self.text)
