"""Noise for embeddings: distributions, and what they are fitted to.

Everything is drawn on the CPU in float32, so that a seed means the same on every device and number format.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from patchpoint.engine import Model
from patchpoint.errors import InvalidArgument, PromptError
from patchpoint.tasks.subject import SubjectPrompt

Shape = tuple[int, int, int]
"""Samples, tokens, d_embed."""


@torch.no_grad()
def embeddings(model: Model, ids: Sequence[int]) -> Float[Tensor, "token d_embed"]:
    """The embedding module's output per token id, in float32 on the CPU."""
    with model.ends() as adapter:
        return adapter.embed(torch.tensor(ids, device=model.device)).cpu().float()


def embedding_std(model: Model, prompts: Iterable[SubjectPrompt]) -> float:
    """Standard deviation over all numbers in the embeddings of all subjects' tokens. Meng et al. 2022, app. B."""
    ids = [i for prompt in prompts for i in prompt.ids[slice(*prompt.subject_span)]]
    return float(embeddings(model, ids).double().std())


def generator(seed: int) -> torch.Generator:
    """A source of random numbers on the CPU; InvalidArgument for a seed that is no 64-bit whole number."""
    try:
        return torch.Generator().manual_seed(seed)
    except (RuntimeError, TypeError, ValueError, OverflowError):
        raise InvalidArgument(
            f"seed {seed!r} is no whole number of at most 64 bits; give one such as 0"
        ) from None


def gaussian(
    samples: int, n_tokens: int, d_embed: int, std: float, seed: int
) -> Float[Tensor, "sample token d_embed"]:
    """Independent Gaussian numbers of mean 0 and a standard deviation in units of the embedding."""
    return torch.randn(samples, n_tokens, d_embed, generator=generator(seed)) * std


def uniform(shape: Shape, bound: float, seed: int) -> Float[Tensor, "sample token d_embed"]:
    """Independent numbers, uniform from -bound to bound."""
    return (2 * torch.rand(*shape, generator=generator(seed)) - 1) * bound


@dataclass(frozen=True, eq=False)
class Spread:
    """Mean and covariance of embeddings: the covariance is `root.T @ root`.

    `root` has a row per distinct token, so it stays small and exact where tokens are fewer than dimensions, and a
    draw costs one number per distinct token instead of a decomposition of a d_embed x d_embed matrix.
    """

    mean: Float[Tensor, " d_embed"]
    root: Float[Tensor, "distinct d_embed"]

    @classmethod
    def over(cls, model: Model, prompts: Iterable[SubjectPrompt]) -> "Spread":
        """Over all tokens of all prompts, a BOS token included. Raises PromptError for fewer than two tokens."""
        counts = Counter(i for prompt in prompts for i in prompt.ids)
        n_tokens = counts.total()
        if n_tokens < 2:
            raise PromptError(
                f"the covariance of the embeddings needs at least 2 tokens, the prompts have {n_tokens}; "
                "give more or longer prompts, or noise such as s3"
            )
        ids = sorted(counts)
        weights = torch.tensor([counts[i] for i in ids], dtype=torch.float64)[:, None]
        embed = embeddings(model, ids).double()
        mean = (weights * embed).sum(0) / n_tokens
        root = (weights / (n_tokens - 1)).sqrt() * (embed - mean)
        return cls(mean.float(), root.float())

    def gaussian(self, shape: Shape, seed: int) -> Float[Tensor, "sample token d_embed"]:
        """Gaussian vectors of this mean and covariance."""
        normal = torch.randn(*shape[:2], len(self.root), generator=generator(seed))
        return self.mean + normal @ self.root

    def student(self, shape: Shape, degrees: float, seed: int) -> Float[Tensor, "sample token d_embed"]:
        """Student-t vectors as in the code of Meng et al. 2022: Gaussian ones times sqrt((K - 2) / chi2_K).

        A whole vector shares one chi2, and its mean is scaled with it: second moments about 0 equal those of
        `gaussian`, the mean is shorter. `degrees` K > 2.
        """
        vectors = self.gaussian(shape, seed)
        # Not torch: its public functions draw no chi2 from a generator.
        chi2 = np.random.default_rng(seed % 2**64).chisquare(degrees, (*shape[:2], 1))
        return torch.from_numpy(np.sqrt((degrees - 2) / chi2)).float() * vectors


def given(noise: np.ndarray | Tensor, n_tokens: int, d_embed: int) -> Float[Tensor, "sample token d_embed"]:
    """The caller's own noise, checked to be finite and of shape [samples, subject tokens, d_embed]."""
    array = torch.as_tensor(noise)
    if array.ndim != 3 or array.shape[0] == 0 or tuple(array.shape[1:]) != (n_tokens, d_embed):
        raise InvalidArgument(
            f"noise has shape {tuple(array.shape)}; expected [samples, {n_tokens} subject tokens, {d_embed}]"
        )
    if not (array.is_floating_point() and bool(array.isfinite().all())):
        raise InvalidArgument("noise must be finite floating-point numbers")
    return array
