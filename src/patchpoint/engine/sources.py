"""Values of an edit that are looked up when they are needed: another prompt's, a mean over prompts, noise.

None of them depends on how a sweep is cut into chunks or which of its edits are made together.
"""

import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from patchpoint.errors import InvalidArgument, PromptError, UnknownName

if TYPE_CHECKING:
    from .model import Model
    from .run import Run
    from .sites import Site

Spans = Sequence[Mapping[str, tuple[int, int]]]
"""Per prompt its roles, each with the half-open span of its tokens."""
NO_ROLE = ""
"""The role that all tokens without one form together."""


class Source(ABC):
    """Where an edit's values come from."""

    @abstractmethod
    def check(self, site: "Site", prompt: int, lengths: Sequence[int]) -> None:
        """Raise PromptError or InvalidArgument where it cannot serve that prompt of the base."""

    @abstractmethod
    def rows(self, component: str, layer: int, prompts: Sequence[int], positions: Sequence[int]) -> Tensor:
        """One row per place (prompt, position), shape [place, *axes of the component]."""


@dataclass(frozen=True, eq=False)
class Taken(Source):
    """What another run has at the same site and token.

    Prompt i of the base is served by prompt `prompts[i]` of that run; None: by the same one, or by the only one.
    Raises PromptError for a prompt of another number of tokens, InvalidArgument for one that is not there.
    """

    run: "Run"
    prompts: tuple[int, ...] | None = None
    _held: dict[tuple[str, int], Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        there = len(self.run.packing.lengths)
        for donor in self.prompts or ():
            if not 0 <= donor < there:
                raise InvalidArgument(f"prompt {donor} is not in the source run, which has 0 to {there - 1}")

    def check(self, site: "Site", prompt: int, lengths: Sequence[int]) -> None:
        """PromptError or InvalidArgument unless a prompt as long as that of the base stands ready."""
        theirs = self.run.packing.lengths
        if self.prompts is None:
            served, said = len(theirs), f"for {site} the source run has {len(theirs)} prompts"
        else:
            served, said = len(self.prompts), f"the source names {len(self.prompts)} prompts for {site}"
        if served != len(lengths) and not (self.prompts is None and served == 1):
            raise InvalidArgument(f"{said}, the base has {len(lengths)}")
        if theirs[self._donor(prompt)] != lengths[prompt]:
            raise PromptError(
                f"prompt {prompt} has {lengths[prompt]} tokens, what {site} takes from another run has "
                f"{theirs[self._donor(prompt)]}; the two must be of equal length"
            )

    def rows(self, component: str, layer: int, prompts: Sequence[int], positions: Sequence[int]) -> Tensor:
        """The donors' rows."""
        offsets = self.run.packing.offsets
        at = [offsets[self._donor(prompt)] + p for prompt, p in zip(prompts, positions, strict=True)]
        if (component, layer) not in self._held:
            # Only the last one: a sweep goes layer by layer, and what was not kept is costly to compute again.
            self._held.clear()
            self._held[component, layer] = self.run.rows(component, layer)
        rows = self._held[component, layer]
        return rows[torch.tensor(at, device=rows.device)]

    def _donor(self, prompt: int) -> int:
        if self.prompts is not None:
            return self.prompts[prompt]
        return 0 if len(self.run.packing.lengths) == 1 else prompt


def source_of(value: "Run | Source") -> Source:
    """A source as it is, or the one that a run is."""
    return value if isinstance(value, Source) else Taken(value)


def resampled(run: "Run", seed: int = 0) -> Taken:
    """Each prompt served by another one of the same number of tokens, none by itself and none by two.

    The draw depends on `seed` and on the prompts' lengths alone. Raises PromptError where no other prompt is as
    long as one of them.
    """
    lengths = run.packing.lengths
    generator = np.random.default_rng(_natural(seed))
    donors = list(range(len(lengths)))
    for length in sorted(set(lengths)):
        members = [prompt for prompt, n in enumerate(lengths) if n == length]
        if len(members) == 1:
            raise PromptError(
                f"prompt {members[0]} is the only one of {length} tokens, so no other can stand in for it; "
                "give at least two prompts of each length"
            )
        shuffled = generator.permutation(members).tolist()
        for prompt, donor in zip(shuffled, [*shuffled[1:], shuffled[0]], strict=True):
            donors[prompt] = donor
    return Taken(run, tuple(donors))


@dataclass(frozen=True, eq=False)
class Mean(Source):
    """The mean of a run's activations over its prompts, in float32.

    `over`: "position" (at the same token position; prompts of one length), "role" (over all tokens of the same
    role) or "all" (over all tokens). Roles come from `spans`, one entry per prompt of the run, and `base_spans`,
    one per prompt of the base (None: the same); a token of several roles has the narrowest, tokens of none form
    one role together. Raises UnknownName, InvalidArgument, and PromptError for prompts that do not line up.
    """

    run: "Run"
    over: str = "position"
    spans: Spans | None = None
    base_spans: Spans | None = None
    _tables: dict[tuple[str, int], Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.over not in KEYS:
            raise UnknownName("mean", self.over, KEYS)
        lengths = self.run.packing.lengths
        if self.over == "position" and len(set(lengths)) > 1:
            raise PromptError(
                f"a mean at each position needs prompts of one length, got {min(lengths)} to {max(lengths)} "
                'tokens; give prompts that line up, or the mean over="role" or "all"'
            )
        if self.over == "role" and (self.spans is None or len(self.spans) != len(lengths)):
            got = "none" if self.spans is None else len(self.spans)
            raise InvalidArgument(
                f"a mean over roles needs the spans of each of the run's {len(lengths)} prompts, got {got}; "
                "give spans= (as prompts.spans)"
            )

    def check(self, site: "Site", prompt: int, lengths: Sequence[int]) -> None:
        """PromptError or InvalidArgument where there is no mean for a token of that prompt."""
        if site.component == "pattern" and self.over != "position":
            raise InvalidArgument(
                "attention probabilities are over the tokens of one prompt, so that only their mean at each "
                f'position has a meaning; got over="{self.over}" for {site}'
            )
        if self.over == "role":
            self._check_roles(site, prompt, lengths)
        n_tokens, theirs = lengths[prompt], self.run.packing.lengths[0]
        if self.over == "position" and n_tokens != theirs:
            raise PromptError(
                f"prompt {prompt} has {n_tokens} tokens, the mean at each position is of prompts of {theirs}; "
                'give prompts that line up, or the mean over="role" or "all"'
            )

    def _check_roles(self, site: "Site", prompt: int, lengths: Sequence[int]) -> None:
        if len(self._base_roles) != len(lengths):
            raise InvalidArgument(
                f"the mean over roles has spans of {len(self._base_roles)} prompts, the base has {len(lengths)}; "
                "give base_spans= with one entry per prompt of the base"
            )
        n_tokens, positions = lengths[prompt], site.positions
        for p in range(n_tokens) if not isinstance(positions, tuple) else positions:
            if (role := self._key(prompt, p % n_tokens)) not in self._row_of:
                raise PromptError(
                    f"token {p % n_tokens} of prompt {prompt} has the role {role!r}, of which the mean's run has "
                    "no token; give spans with the same roles"
                )

    def rows(self, component: str, layer: int, prompts: Sequence[int], positions: Sequence[int]) -> Tensor:
        """The means at these places, float32."""
        if (component, layer) not in self._tables:
            rows = self.run.rows(component, layer).float()
            means = [rows[torch.tensor(members, device=rows.device)].mean(0) for members in self._members]
            self._tables[component, layer] = torch.stack(means)
        table = self._tables[component, layer]
        at = [self._row_of[self._key(prompt, p)] for prompt, p in zip(prompts, positions, strict=True)]
        return table[torch.tensor(at, device=table.device)]

    def _key(self, prompt: int, position: int) -> Hashable:
        roles = self._base_roles[prompt] if self.over == "role" else {}
        return KEYS[self.over](roles, position)

    @cached_property
    def _base_roles(self) -> list[dict[int, str]]:
        return [roles_of(spans) for spans in self.base_spans or self.spans or ()]

    @cached_property
    def _row_of(self) -> dict[Hashable, int]:
        """By what tokens have in common, the row of the tables."""
        return {key: row for row, key in enumerate(self._grouped)}

    @cached_property
    def _members(self) -> list[list[int]]:
        """Of each row of the tables, the packed rows of the run that it is the mean of."""
        return list(self._grouped.values())

    @cached_property
    def _grouped(self) -> dict[Hashable, list[int]]:
        packing = self.run.packing
        roles = [roles_of(spans) for spans in self.spans] if self.over == "role" and self.spans else None
        found: dict[Hashable, list[int]] = {}
        for prompt, offset in enumerate(packing.offsets):
            for p in range(packing.lengths[prompt]):
                key = KEYS[self.over]({} if roles is None else roles[prompt], p)
                found.setdefault(key, []).append(offset + p)
        return found


def roles_of(spans: Mapping[str, tuple[int, int]]) -> dict[int, str]:
    """The role of each token that has one; the narrowest where spans overlap."""
    widest_first = sorted(spans.items(), key=lambda item: item[1][0] - item[1][1])
    return {p: role for role, (start, stop) in widest_first for p in range(start, stop)}


KEYS: dict[str, Callable[[Mapping[int, str], int], Hashable]] = {
    "position": lambda roles, position: position,
    "role": lambda roles, position: roles.get(position, NO_ROLE),
    "all": lambda roles, position: NO_ROLE,
}
"""By name of a mean, what the tokens that it is taken over have in common."""


@dataclass(frozen=True, eq=False)
class Noise(Source):
    """Gaussian noise of mean 0, in units of the component; add it, or put it in place of what is there.

    A number depends on (seed, component, layer, prompt, position) alone. Raises InvalidArgument for a standard
    deviation that is not positive, a negative seed, and for attention probabilities.
    """

    model: "Model"
    std: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.std) and self.std > 0):
            raise InvalidArgument(
                f"the standard deviation of noise must be a positive number, got {self.std}"
            )
        _natural(self.seed)

    def check(self, site: "Site", prompt: int, lengths: Sequence[int]) -> None:
        """InvalidArgument for attention probabilities."""
        if site.component == "pattern":
            raise InvalidArgument(f"noise makes no probabilities, so not at {site}; give a site of q or k")

    def rows(self, component: str, layer: int, prompts: Sequence[int], positions: Sequence[int]) -> Tensor:
        """One draw per place, float32."""
        axes = _axes(self.model, component, layer)
        longest: dict[int, int] = {}
        for prompt, p in zip(prompts, positions, strict=True):
            longest[prompt] = max(p + 1, longest.get(prompt, 0))
        # Drawn anew each time: as many sources as variants, each holding its draws, would take all memory.
        drawn = {
            prompt: self._draw(component, layer, prompt, (n_tokens, *axes))
            for prompt, n_tokens in longest.items()
        }
        rows = np.stack([drawn[prompt][p] for prompt, p in zip(prompts, positions, strict=True)])
        return torch.from_numpy(rows).mul_(self.std)

    def _draw(self, component: str, layer: int, prompt: int, shape: tuple[int, ...]) -> np.ndarray:
        """Tokens 0, 1, ... of a prompt: numpy draws them one after the other, so more tokens change none."""
        entropy = (self.seed, zlib.crc32(component.encode()), layer, prompt)
        return np.random.default_rng(entropy).standard_normal(shape, dtype=np.float32)


def _axes(model: "Model", component: str, layer: int) -> tuple[int, ...]:
    """Axes of a component's rows."""
    block = model.adapter.blocks[layer]
    if component in ("q", "z"):
        return block.n_heads, block.d_head
    if component in ("k", "v"):
        return block.n_kv_heads, block.d_head
    if component in ("q_input", "k_input", "v_input"):
        return block.n_heads, model.d_model
    if component == "final":
        return (model.hf.get_output_embeddings().weight.shape[1],)
    if component == "embed":
        return (model.d_embed,)
    return (block.d_mlp or 0 if component == "mlp_post" else model.d_model,)


def _natural(seed: int) -> int:
    if seed < 0:
        raise InvalidArgument(f"a seed must be 0 or more, got {seed}")
    return seed
