"""What a sweep has to compute: units grouped by shape, ordered so that those at work are always a prefix.

A unit is one variant of one prompt. It equals its base before its first edited token (the engine holds only the
tokens from there on, its suffix) and up to its first edited block (it enters the sweep behind that block, or behind
the one below where it changes what attention reads).
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from patchpoint.errors import InvalidArgument

from .edits import READ_BY_LATER_TOKENS, STAGES, Change, check_together, resolve
from .memory import budget_bytes, take_within
from .metrics import LOGITS_BYTES
from .prompt_tiles import tile_rows
from .run import Run
from .sites import Variant

RANK = {stage: rank for rank, stage in enumerate(STAGES)}
UNIT_BYTES = 600
"""What the plan itself takes per unit."""
PREFIX_TILE_BYTES = 2**26
"""Most bytes of keys and values of unchanged tokens gathered for one tile."""
AFTER_BLOCK = ("resid_post", "final")


@dataclass(frozen=True, eq=False, slots=True)
class Unit:
    """One variant of one prompt: its changes in the order in which they act."""

    variant: int
    prompt: int
    n_tokens: int
    base_row: int
    """The base run's row of the prompt's first token."""
    changes: tuple[Change, ...]
    made_again: frozenset[int]
    """Which of `changes`, by number, are the base run's own."""
    entry: int
    """The block behind which the unit first differs from its base; -1 before block 0."""
    first: int
    """The first token that differs."""

    @property
    def first_changed(self) -> list[int]:
        """The tokens that differ behind the block of entry."""
        return sorted(
            {
                p
                for change in self.changes
                if change.layer == self.entry and change.stage != "final"
                for p in change.positions
            }
        )

    @property
    def n_recomputed(self) -> int:
        """How many tokens pass through the rest of the block of entry again."""
        inside = [c for c in self.changes if c.layer == self.entry >= 0 and c.stage not in AFTER_BLOCK]
        if all(change.stage == "mlp_out" for change in inside):
            return 0
        return len({p for change in inside for p in change.positions})

    @property
    def width(self) -> int:
        """Tokens from the first that differs to the last."""
        return self.n_tokens - self.first

    @property
    def n_edited(self) -> int:
        """How many rows the variant itself edits."""
        return sum(len(c.positions) for i, c in enumerate(self.changes) if i not in self.made_again)


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

    @cached_property
    def base_starts(self) -> Int[Tensor, " unit"]:
        """Each unit's `base_row`."""
        return torch.tensor([unit.base_row for unit in self.units])

    @cached_property
    def edited_above_entry(self) -> dict[int, list[int]]:
        """By block, the units that it changes after they entered below it."""
        found: dict[int, list[int]] = {}
        for index, unit in enumerate(self.units):
            for layer in {change.layer for change in unit.changes if change.layer > unit.entry}:
                found.setdefault(layer, []).append(index)
        return found

    def state_rows(self, index: int, positions: Sequence[int]) -> list[int]:
        """State rows of a unit's tokens."""
        start = self.state_start + index * self.width - self.first
        return [start + p for p in positions]


def units_of(base: Run, variants: Sequence[Variant]) -> list[Unit]:
    """All units that can differ from their base at the final token; the rest are left out."""
    model, lengths = base.model, base.packing.lengths
    own = [[resolve(model, edit, p, lengths) for edit in base.edits] for p in range(len(lengths))]
    units = []
    for number, variant in enumerate(variants):
        check_together(model, (*base.edits, *variant.edits))
        for prompt in _prompts_of(variant, len(lengths)):
            n_tokens = lengths[prompt]
            changes = [_reaching(resolve(model, e, prompt, lengths), model.n_layers) for e in variant.edits]
            acting = sorted((c for c in changes if c.positions), key=_order)
            if acting:
                again = [_reaching(c, model.n_layers) for c in _made_again(own[prompt], acting)]
                base_row = base.packing.offsets[prompt]
                units.append(
                    _unit(number, prompt, n_tokens, base_row, [c for c in again if c.positions], acting)
                )
    return units


def _prompts_of(variant: Variant, n_prompts: int) -> Sequence[int]:
    """The prompts that a variant changes; InvalidArgument where one is not there or is named twice."""
    if variant.prompts is None:
        return range(n_prompts)
    if len(set(variant.prompts)) != len(variant.prompts) or not set(variant.prompts) <= set(range(n_prompts)):
        raise InvalidArgument(
            f"variant {variant} is for prompts {variant.prompts}; give each once, of 0 to {n_prompts - 1}"
        )
    return variant.prompts


def _unit(
    number: int, prompt: int, n_tokens: int, base_row: int, again: list[Change], acting: list[Change]
) -> Unit:
    together = [*again, *acting]
    first = min(p for change in together for p in change.positions)
    order = sorted(range(len(together)), key=lambda i: _order(together[i]))
    own = frozenset(place for place, i in enumerate(order) if i < len(again))
    changes = tuple(together[i] for i in order)
    return Unit(number, prompt, n_tokens, base_row, changes, own, acting[0].entry, first)


def _order(change: Change) -> tuple[int, int]:
    return change.layer, RANK[change.stage]


def _made_again(own: list[Change], acting: list[Change]) -> list[Change]:
    """The base run's own edits that must be made again, because a variant computes their rows anew.

    Those are the ones above the block of entry, from the first changed token on; within that block the ones
    behind attention, on tokens that the variant changes before the block's end; and those of `final`.
    """
    entry, first = acting[0].entry, min(p for c in acting for p in c.positions)
    # An edited pattern may look at later tokens, so that its rows change with what those hold.
    looking = [p for c in own if c.stage == "pattern" and c.layer > entry for p in c.positions]
    first = min(first, *looking) if looking else first
    inside = {p for c in acting if c.layer == entry and c.stage not in AFTER_BLOCK for p in c.positions}
    kept = []
    for change in own:
        if change.layer > entry or change.stage == "final":
            kept.append(change.only(lambda p: p >= first))
        elif change.entry == change.layer == entry:
            kept.append(change.only(inside.__contains__))
    return [change for change in kept if change.positions]


def _reaching(change: Change, n_layers: int) -> Change:
    """The part of a change that can reach the final token: behind the last attention, only that token itself."""
    if change.layer < n_layers - 1 or change.stage in READ_BY_LATER_TOKENS:
        return change
    return change.only(lambda p: p == change.n_tokens - 1)


@dataclass(frozen=True, eq=False)
class Chunks:
    """A sweep's units in chunks, each in groups, and the most bytes that any chunk takes."""

    groups: list[list[Group]]
    n_bytes: int


def chunks_of(base: Run, units: list[Unit], memory_gib: float | None) -> Chunks:
    """Units in chunks that fit the memory budget; a chunk has at least one unit, whatever the budget."""
    model = base.model
    ordered = sorted(units, key=lambda u: (u.n_tokens, u.first, u.entry))
    # A state row, its copy on entry, and an edit's value for it with a copy of that.
    row_bytes = 4 * model.d_model * model.dtype.itemsize
    fixed = _fixed_bytes(base) + len(units) * UNIT_BYTES
    budget = budget_bytes(memory_gib, model.device) - fixed
    chunks, most = [], 0
    while ordered:
        n = take_within([unit.width for unit in ordered], row_bytes, budget)
        most = max(most, sum(unit.width for unit in ordered[:n]) * row_bytes)
        chunks.append(_groups(ordered[:n]))
        ordered = ordered[n:]
    return Chunks(chunks, most + fixed)


def _fixed_bytes(base: Run) -> int:
    """What a sweep takes whatever its units: a tile inside a block, keys and values before it, rows of logits."""
    block, size = base.model.adapter.blocks[0], base.model.dtype.itemsize
    widths = 6 * base.model.d_model + 3 * (block.d_mlp or 4 * base.model.d_model)
    tile = tile_rows(base.model.device) * widths * size
    queries = base.packing.n_rows * block.n_heads * block.d_head * size
    return tile + queries + 3 * PREFIX_TILE_BYTES + 2 * LOGITS_BYTES


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
