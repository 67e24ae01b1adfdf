"""Pairs of prompts in parts that are patched at the same tokens, so that nothing is computed that cannot change.

Up to the first token in which the two prompts of a pair differ, attention being causal, their activations are the
same: exchanging them changes nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from patchpoint.engine import Batch
from patchpoint.errors import InvalidArgument, PromptError
from patchpoint.tasks.prompts import Prompts

Positions = str | int | Sequence[int] | None
"""A role of `prompts.spans`, token positions (negative ones from each prompt's end), or None: every token."""


@dataclass(frozen=True)
class Part:
    """Prompts, by number, whose pairs can differ at the same tokens, `positions` counted from the end (-1 last)."""

    numbers: tuple[int, ...]
    positions: tuple[int, ...]

    def batch(self, whole: Batch) -> Batch:
        """Its prompts of a batch."""
        chosen = [
            None if ids is None else _chosen(ids, self.numbers) for ids in (whole.correct, whole.incorrect)
        ]
        return Batch(tuple(whole.tokens[number] for number in self.numbers), *chosen)


def _chosen(values: Sequence[int], numbers: Sequence[int]) -> tuple[int, ...]:
    return tuple(values[number] for number in numbers)


def parts_of(prompts: Prompts, positions: Positions) -> list[Part]:
    """All prompts in parts; of the positions asked for, those from a pair's first difference on.

    Raises PromptError for a role that a prompt does not have or a position outside of it, InvalidArgument for no
    positions at all.
    """
    found: dict[tuple[int, ...], list[int]] = {}
    pairs = zip(prompts.clean.tokens, prompts.corrupt.tokens, strict=True)
    for number, (clean, corrupt) in enumerate(pairs):
        if len(clean) != len(corrupt):
            raise PromptError(
                f"prompt {number} has {len(clean)} tokens and its corrupted twin {len(corrupt)}; give twins of "
                "equal length"
            )
        first = next((p for p, (a, b) in enumerate(zip(clean, corrupt, strict=True)) if a != b), len(clean))
        wanted = _positions(prompts, number, len(clean), positions)
        found.setdefault(tuple(p - len(clean) for p in wanted if p >= first), []).append(number)
    return [Part(tuple(numbers), where) for where, numbers in found.items()]


def _positions(prompts: Prompts, number: int, n_tokens: int, asked: Positions) -> list[int]:
    """Positions asked for in one prompt, rising, counted from 0."""
    if asked is None:
        return list(range(n_tokens))
    if isinstance(asked, str):
        spans = prompts.spans[number] if prompts.spans else {}
        if asked not in spans:
            known = ", ".join(map(repr, spans)) or "none"
            raise PromptError(f"prompt {number} has no tokens of the role {asked!r}; its roles: {known}")
        return list(range(*spans[asked]))
    listed = list(asked) if isinstance(asked, Iterable) else [asked]
    if not listed:
        raise InvalidArgument("positions is empty; leave it out to mean every token")
    for p in listed:
        if not -n_tokens <= p < n_tokens:
            raise PromptError(f"position {p} is outside prompt {number}, which has {n_tokens} tokens")
    return sorted({p % n_tokens for p in listed})
