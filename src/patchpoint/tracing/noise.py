"""The corruption of causal tracing: noise on the embeddings of the subject's tokens, from one seed."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from patchpoint.engine import Model
from patchpoint.errors import InvalidArgument
from patchpoint.tasks.prompts import SubjectPrompt

NoiseLike = str | float | np.ndarray | Tensor

SCALED = re.compile(r"s(\d+(?:\.\d*)?|\.\d+)(e[+-]?\d+)?")


@dataclass(frozen=True)
class NoiseLevel:
    """Gaussian noise of a given standard deviation, or of `factor` times that of the subjects' embeddings."""

    text: str
    std: float | None
    factor: float | None

    @classmethod
    def parse(cls, noise: str | float) -> "NoiseLevel":
        """From `s3` (3 standard deviations of the embeddings) or a number; InvalidArgument for anything else."""
        text = str(noise).strip()
        scaled = SCALED.fullmatch(text)
        try:
            number = float(text[1:] if scaled else text)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and number >= 0):
            raise InvalidArgument(
                f"noise {text!r} is not understood; give sX (X times the standard deviation of the subjects' "
                "embeddings, such as s3), a standard deviation >= 0, or an array"
            )
        return cls(text, None, number) if scaled else cls(text, number, None)

    def std_for(self, model: Model, prompts: Iterable[SubjectPrompt]) -> float:
        """The standard deviation, in units of the embedding; measured over all subjects where it is relative."""
        if self.std is not None:
            return self.std
        assert self.factor is not None
        return self.factor * embedding_std(model, prompts)


@torch.no_grad()
def embedding_std(model: Model, prompts: Iterable[SubjectPrompt]) -> float:
    """Standard deviation over all numbers in the embeddings of all subjects' tokens. Meng et al. 2022, app. B."""
    ids = [i for prompt in prompts for i in prompt.ids[slice(*prompt.subject_span)]]
    with model.ends() as adapter:
        embed = adapter.embed(torch.tensor(ids, device=model.device))
    return float(embed.double().std())


def gaussian(
    samples: int, n_tokens: int, d_embed: int, std: float, seed: int
) -> Float[Tensor, "sample token d_embed"]:
    """Noise drawn on the CPU in float32, so that a seed means the same on every device and number format."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, n_tokens, d_embed, generator=generator) * std


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


@dataclass(frozen=True, eq=False)
class Corruption:
    """Noise as it is added to the subject's embeddings; `std` is None and `text` "given" for the caller's own."""

    added: Float[Tensor, "sample token d_embed"]
    std: float | None
    text: str


def corrupted_by(
    model: Model, prompt: SubjectPrompt, noise: NoiseLike, samples: int, seed: int
) -> Corruption:
    """The noise of one prompt: drawn at a level, or the caller's own. InvalidArgument for neither."""
    start, stop = prompt.subject_span
    if isinstance(noise, np.ndarray | Tensor):
        return Corruption(given(noise, stop - start, model.d_embed), None, "given")
    level = NoiseLevel.parse(noise)
    std = level.std_for(model, [prompt])
    return Corruption(gaussian(samples, stop - start, model.d_embed, std, seed), std, level.text)
