"""What a sweep has to compute: units grouped by shape, ordered so that those at work are always a prefix.

A unit is one variant of one prompt. It equals its base before its first edited token (the engine holds only the
tokens from there on, its suffix) and up to its first edited block (it enters the sweep behind that block).
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .edits import STAGES, Change, resolve
from .memory import budget_bytes, take_within
from .run import Run
from .sites import Variant

if TYPE_CHECKING:
    from .model import Model


@dataclass(frozen=True, eq=False)
class Unit:
    """One variant of one prompt: its changes in the order in which they act."""

    variant: int
    prompt: int
    n_tokens: int
    changes: tuple[Change, ...]

    @property
    def entry(self) -> int:
        """The block behind which the unit first differs from its base; -1 before block 0."""
        return self.changes[0].layer

    @property
    def first(self) -> int:
        """The first token that differs."""
        return min(p for change in self.changes for p in change.positions)

    @property
    def first_changed(self) -> list[int]:
        """The tokens that differ behind the block of entry."""
        return sorted({p for change in self.changes if change.layer == self.entry for p in change.positions})

    @property
    def width(self) -> int:
        """Tokens from the first that differs to the last."""
        return self.n_tokens - self.first


@dataclass(frozen=True, eq=False)
class Group:
    """Units with the same number of tokens and the same first changed one, in order of entry."""

    n_tokens: int
    first: int
    units: tuple[Unit, ...]
    state_start: int
    """Row of the first unit in the chunk's state."""
    unit_start: int
    """Number of the first unit among the chunk's."""

    @property
    def width(self) -> int:
        """Rows of each unit."""
        return self.n_tokens - self.first

    def entered_before(self, layer: int) -> int:
        """How many units, the leading ones, entered behind a block below `layer`."""
        return bisect_left(self.units, layer, key=lambda unit: unit.entry)

    def state_rows(self, index: int, positions: Sequence[int]) -> list[int]:
        """State rows of a unit's tokens."""
        start = self.state_start + index * self.width - self.first
        return [start + p for p in positions]


def units_of(model: "Model", variants: Sequence[Variant], lengths: Sequence[int]) -> list[Unit]:
    """All units that can differ from their base at the final token; the rest are left out."""
    units = []
    for number, variant in enumerate(variants):
        for prompt, n_tokens in enumerate(lengths):
            changes = [
                _reaching(resolve(model, e, prompt, lengths), n_tokens, model.n_layers) for e in variant.edits
            ]
            acting = sorted(
                (c for c in changes if c.positions), key=lambda c: (c.layer, STAGES.index(c.stage))
            )
            if acting:
                units.append(Unit(number, prompt, n_tokens, tuple(acting)))
    return units


def _reaching(change: Change, n_tokens: int, n_layers: int) -> Change:
    """The part of a change that can reach the final token: behind the last attention, only that token itself."""
    if change.layer < n_layers - 1:
        return change
    kept = [i for i, p in enumerate(change.positions) if p == n_tokens - 1]
    return replace(
        change, positions=tuple(change.positions[i] for i in kept), picks=tuple(change.picks[i] for i in kept)
    )


def chunks_of(base: Run, units: list[Unit], memory_gib: float | None) -> list[list[Group]]:
    """Units in chunks whose state fits the memory budget, each chunk's units in groups."""
    model = base.model
    ordered = sorted(units, key=lambda u: (u.n_tokens, u.first, u.entry))
    # A state row, its copy in a tile, an edit's value for it and the widest hidden layer's share.
    row_bytes = 4 * model.d_model * model.dtype.itemsize
    budget = budget_bytes(memory_gib, model.device)
    chunks = []
    while ordered:
        n = take_within([unit.width for unit in ordered], row_bytes, budget)
        chunks.append(_groups(ordered[:n]))
        ordered = ordered[n:]
    return chunks


def _groups(ordered: list[Unit]) -> list[Group]:
    by_shape: dict[tuple[int, int], list[Unit]] = {}
    for unit in ordered:
        by_shape.setdefault((unit.n_tokens, unit.first), []).append(unit)
    groups, row, number = [], 0, 0
    for (n_tokens, first), members in by_shape.items():
        groups.append(Group(n_tokens, first, tuple(members), row, number))
        row += len(members) * (n_tokens - first)
        number += len(members)
    return groups
