"""What all checks of an examination share: the prompts, one run of ours, and the plain model's answers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from patchpoint.engine import Batch, Edit, Model, Run
from patchpoint.errors import PromptError
from patchpoint.models.tokens import encode

from .about import resolution
from .plain import Ids, Plain, on_cpu, plain_run
from .sites import distances, whole_sites
from .verdict import About

LENGTHS = (5, 3, 12)
TEXT = "The sea is salt, and rivers are not: why?"
SEED = 0
LEAST_LOGITS, MOST_LOGITS = 1e-4, 1.0
LEAST_STREAM, MOST_STREAM = 1e-4, 0.2
LEAST_SUM = 1e-5
"""Bounds of tolerances whatever the noise: float32 sums in another order stay far below the least, and numbers
that are off by more than the most cannot be called equal."""
TIMES_NOISE = 4.0


@dataclass(frozen=True)
class Finding:
    """A measured error, the largest that passes, and what both count."""

    error: float
    tolerance: float
    unit: str
    remark: str | None = None


@dataclass(frozen=True)
class Skip:
    """Why a check was not made."""

    reason: str


@dataclass(frozen=True, eq=False)
class Exam:
    """One model under examination; what takes a forward is computed when a check first asks for it."""

    model: Model
    about: About
    prompts: tuple[Ids, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", prompts_for(self.model))

    @cached_property
    def base(self) -> Run:
        """All prompts through our engine, packed."""
        return self.model.run(Batch(self.prompts))

    @cached_property
    def logits(self) -> list[Float[Tensor, "token vocab"]]:
        """Our logits at every token, per prompt."""
        return logits_of(self.base)

    @cached_property
    def plain(self) -> tuple[Plain, ...]:
        """Each prompt through the plain model, alone; short ones first, since some models recall lengths."""
        found = {number: plain_run(self.model, self.prompts[number]) for number in self.by_length}
        return tuple(found[number] for number in range(len(self.prompts)))

    @cached_property
    def shaken(self) -> Plain:
        """The longest prompt through the plain model, every block's output rounded at random."""
        generator = torch.Generator().manual_seed(SEED)
        step = resolution(self.about)

        def shake(stream: Tensor) -> Tensor:
            off = torch.rand(stream.shape, generator=generator) - 0.5
            return (on_cpu(stream) * (1 + step * off)).to(stream)

        return plain_run(self.model, self.prompts[self.longest], shake)

    @cached_property
    def by_length(self) -> tuple[int, ...]:
        """Which prompts are shorter than which."""
        return tuple(sorted(range(len(self.prompts)), key=lambda number: len(self.prompts[number])))

    @property
    def longest(self) -> int:
        """Which prompt has the most tokens."""
        return self.by_length[-1]

    @cached_property
    def short(self) -> Run:
        """The two shortest prompts through our engine: what edits are tried on."""
        return self.model.run(Batch(tuple(self.prompts[number] for number in self.by_length[:2])))

    @cached_property
    def self_patched(self) -> Float[Tensor, " site"]:
        """How far logits move when a component is replaced by itself, per site of `whole_sites`."""
        return distances(self.short, [Edit(site, "replace", self.short) for site in whole_sites(self.model)])

    @cached_property
    def spread(self) -> float:
        """Standard deviation of the plain model's logits, the unit of their errors."""
        return float(torch.cat([plain.logits for plain in self.plain]).std())

    @cached_property
    def noise(self) -> float:
        """How far shaking moves the plain logits, at most, in `spread`."""
        return gap(self.shaken.logits, self.plain[self.longest].logits) / self.spread

    @cached_property
    def stream_noise(self) -> float:
        """How far shaking moves the plain stream behind any block, at most, relative to the token's largest."""
        still = self.plain[self.longest].blocks
        return max(relative_gap(moved, old) for moved, old in zip(self.shaken.blocks, still, strict=True))

    def of_logits(self, error: float, remark: str | None = None) -> Finding:
        """A finding from a difference of logits."""
        tolerance = min(MOST_LOGITS, max(LEAST_LOGITS, TIMES_NOISE * self.noise))
        return Finding(error / self.spread, tolerance, "standard deviations of the logits", remark)

    def of_stream(self, error: float) -> Finding:
        """A finding from a difference of streams, relative to the largest number of the token's."""
        tolerance = min(MOST_STREAM, max(LEAST_STREAM, TIMES_NOISE * self.stream_noise))
        return Finding(error, tolerance, "parts of the token's largest number")

    def of_sums(self, error: float) -> Finding:
        """A finding from a relative difference of two sums of the same numbers."""
        tolerance = max(LEAST_SUM, TIMES_NOISE * resolution(self.about))
        return Finding(error, tolerance, "parts of the largest number")


def prompts_for(model: Model) -> tuple[Ids, ...]:
    """Prompts of different lengths: ordinary tokens drawn at random, and a short text where it has tokens."""
    tokenizer = model.tokenizer
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_encoder.values()}
    n_known = min(model.n_embeddings, len(tokenizer))
    ordinary = [token for token in range(n_known) if token not in special] or list(range(model.n_embeddings))
    generator = torch.Generator().manual_seed(SEED)
    most = model.max_tokens or max(LENGTHS)
    drawn = [torch.randint(len(ordinary), (min(n, most),), generator=generator).tolist() for n in LENGTHS]
    prompts = [tuple(ordinary[i] for i in draw) for draw in drawn]
    try:
        text = encode(tokenizer, TEXT).ids
    except PromptError:
        return tuple(prompts)
    return (*prompts, text[:most]) if max(text) < model.n_embeddings else tuple(prompts)


@torch.no_grad()
def logits_of(run: Run) -> list[Float[Tensor, "token vocab"]]:
    """A run's logits at every token, per prompt, float32 on the CPU."""
    with run.model.ends() as adapter:
        logits = on_cpu(adapter.unembed(adapter.final(run.resid[-1]), slice(None)))
    return per_prompt(run, logits)


def per_prompt(run: Run, rows: Tensor) -> list[Tensor]:
    """Packed rows as one tensor per prompt."""
    return [rows[run.packing.rows(prompt)] for prompt in range(len(run.packing.lengths))]


def gap(mine: Tensor, theirs: Tensor) -> float:
    """Largest difference of two numbers at the same place; 0 of nothing, infinite where one is not a number."""
    if not mine.numel():
        return 0.0
    largest = float((mine - theirs).abs().max())
    return largest if largest == largest else float("inf")


def relative_gap(mine: Tensor, theirs: Tensor, scale: Tensor | None = None) -> float:
    """Largest difference of two rows, relative to the largest absolute number of the row (or of `scale`)."""
    size = (theirs if scale is None else scale).abs().amax(-1, keepdim=True)
    tiny = torch.finfo(torch.float32).tiny
    return gap(mine / size.clamp(min=tiny), theirs / size.clamp(min=tiny))


def largest_gap(mine: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """The largest of several gaps."""
    return max((gap(a, b) for a, b in zip(mine, theirs, strict=True)), default=0.0)
