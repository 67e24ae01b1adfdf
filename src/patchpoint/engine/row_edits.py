"""Changes of many prompts as edits of packed rows, gathered so that one call makes all of a kind."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .edits import Change, has_heads
from .sites import Edit
from .sources import Source, source_of
from .visit import Visit

if TYPE_CHECKING:
    from .model import Model


@dataclass(frozen=True, eq=False)
class Ledger:
    """What was really done to each variant: rows edited, and the largest absolute change of a number."""

    rows: Int[Tensor, " variant"]
    largest: Float[Tensor, " variant"]

    @classmethod
    def of(cls, n_variants: int, device: torch.device) -> "Ledger":
        """An empty one."""
        return cls(
            torch.zeros(n_variants, dtype=torch.int64, device=device), torch.zeros(n_variants, device=device)
        )

    def enter(self, variants: Int[Tensor, " row"], old: Tensor, new: Tensor) -> None:
        """Note an edit of rows that belong to variants; those of variant -1 are nobody's."""
        change = (new - old).abs().flatten(1).amax(1).to(self.largest)
        ours: Bool[Tensor, " row"] = variants >= 0
        if not ours.all():
            variants, change = variants[ours], change[ours]
        self.rows.index_add_(0, variants, torch.ones_like(variants))
        self.largest.scatter_reduce_(0, variants, change, "amax")


@dataclass(frozen=True, eq=False, slots=True)
class Placed:
    """A change with its rows, its place among its unit's changes in that block, and the variant it belongs to.

    Variant -1: an edit of the base run, made again.
    """

    change: Change
    order: int
    rows: Sequence[int]
    variant: int = -1


@dataclass(frozen=True, eq=False)
class RowEdit:
    """Edits of one kind at one component: state rows in rising order, and a value for each."""

    op: str
    picked: tuple[int, ...] | None
    """Heads or neurons; None: all."""
    rows: np.ndarray
    values: Tensor
    """[row, width], or [row, 1] for numbers."""
    variants: Int[Tensor, " row"]
    ledger: Ledger | None

    def has_rows(self, start: int, n_rows: int) -> bool:
        """Whether any of state rows start ... + n_rows is edited."""
        low, high = np.searchsorted(self.rows, (start, start + n_rows))
        return bool(low < high)

    def apply(self, component: Tensor, state_start: int, n_rows: int, tile_start: int) -> None:
        """Edit those of state rows state_start ... + n_rows that are ours; they lie from `tile_start` on."""
        low, high = np.searchsorted(self.rows, (state_start, state_start + n_rows))
        if low == high:
            return
        at = torch.from_numpy(self.rows[low:high] - (state_start - tile_start)).to(component.device)
        where: tuple[Tensor, ...] = (at,)
        if self.picked is not None:
            where = (at[:, None], torch.tensor(self.picked, device=component.device)[None])
        old = component[where]
        values = self.values[low:high]
        if values.shape[1] == old[0].numel():
            values = values.reshape(old.shape)
        else:
            # One number for all, or one stream for every head.
            values = values.view(len(at), *[1] * (old.ndim - 2), -1)
        if self.op == "replace":
            new = values.expand(old.shape)
        elif self.op == "add":
            new = old + values
        else:
            new = old * values
        component[where] = new
        if self.ledger is not None:
            self.ledger.enter(self.variants[low:high], old, new)


StageEdits = dict[str, list[RowEdit]]


def row_edits(model: "Model", changes: Iterable[Placed], ledger: Ledger | None = None) -> StageEdits:
    """Edits by stage, in the order in which they act."""
    kinds: dict[tuple[int, str, object], list[Placed]] = {}
    for placed in changes:
        edit, stage = placed.change.edit, placed.change.stage
        n_keys = placed.change.n_tokens if stage == "pattern" else 0
        alike = (edit.op, edit.site.picked, n_keys, _kind_of_value(edit))
        kinds.setdefault((placed.order, stage, alike), []).append(placed)
    found: StageEdits = {}
    for (_, stage, _), items in sorted(kinds.items(), key=lambda kind: kind[0][0]):
        all_rows = np.concatenate([np.asarray(item.rows, dtype=np.int64) for item in items])
        rising = np.argsort(all_rows, kind="stable")
        values = _values(model, [item.change for item in items])
        by_row = torch.from_numpy(rising).to(values.device)
        owners = torch.tensor([item.variant for item in items for _ in item.rows], device=values.device)
        edit = items[0].change.edit
        found.setdefault(stage, []).append(
            RowEdit(edit.op, edit.site.picked, all_rows[rising], values[by_row], owners[by_row], ledger)
        )
    return found


def visit_all(edits: StageEdits, start: int = 0) -> Visit:
    """Make edits whose rows are counted as the visited ones are, from `start` on."""

    def call(component: str, rows: Tensor, first: int) -> None:
        for edit in edits.get(component, ()):
            edit.apply(_with_heads(component, rows), start + first, len(rows), 0)

    return Visit(frozenset(edits), call)


def visit_slabs(edits: StageEdits, slabs: Sequence[tuple[int, int, int]]) -> Visit:
    """Make edits on a tile of slabs, each given as (its first state row, its number of rows, its first tile row)."""
    here = {
        stage: touching
        for stage, all_edits in edits.items()
        if (touching := [e for e in all_edits if any(e.has_rows(s, n) for s, n, _ in slabs)])
    }

    def call(component: str, rows: Tensor, first: int) -> None:
        for edit in here.get(component, ()):
            for state_start, n_rows, tile_start in slabs:
                if first <= tile_start < first + len(rows):
                    edit.apply(_with_heads(component, rows), state_start, n_rows, tile_start - first)

    return Visit(frozenset(here), call)


def _with_heads(component: str, rows: Tensor) -> Tensor:
    """Neurons as heads one number wide; everything else as it is."""
    return rows[..., None] if component == "mlp_post" else rows


def _kind_of_value(edit: Edit) -> int:
    """Equal for edits whose values can be gathered together: numbers, tensors, those of one source."""
    if isinstance(edit.value, int | float):
        return 0
    return 1 if isinstance(edit.value, Tensor) else id(edit.value)


def _values(model: "Model", changes: list[Change]) -> Tensor:
    """One value row per changed token, in the order of the changes; all changes have one kind of value."""
    value = changes[0].edit.value
    device, dtype = model.device, model.dtype
    if isinstance(value, int | float):
        numbers = [float(c.edit.value) for c in changes for _ in c.positions]  # type: ignore[arg-type]
        return torch.tensor(numbers, device=device, dtype=dtype)[:, None]
    if isinstance(value, Tensor):
        return torch.cat([_tensor_rows(c).to(device, dtype) for c in changes])
    return _source_rows(source_of(value), changes).to(device, dtype)


def _tensor_rows(change: Change) -> Tensor:
    value = change.edit.value
    assert isinstance(value, Tensor)
    mine = value[change.prompt] if value.ndim == 3 else value
    return mine[list(change.picks)] if mine.ndim == 2 else mine.expand(len(change.picks), -1)


def _source_rows(source: Source, changes: list[Change]) -> Tensor:
    """Rows of a source's activations, gathered layer by layer."""
    by_layer: dict[int, list[Change]] = {}
    places: dict[int, list[int]] = {}
    at = 0
    for change in changes:
        layer = change.edit.site.layer
        by_layer.setdefault(layer, []).append(change)
        places.setdefault(layer, []).extend(range(at, at + len(change.positions)))
        at += len(change.positions)
    parts = []
    for items in by_layer.values():
        site = items[0].edit.site
        prompts = [c.prompt for c in items for _ in c.positions]
        positions = [p for c in items for p in c.positions]
        parts.append(_picked(items[0], source.rows(site.component, site.layer, prompts, positions)))
    back = torch.tensor([p for rows in places.values() for p in rows]).argsort()
    return torch.cat(parts)[back.to(parts[0].device)]


def _picked(change: Change, rows: Tensor) -> Tensor:
    """The numbers of the heads or neurons that a change names, side by side."""
    site = change.edit.site
    if not has_heads(site.component):
        return rows.flatten(1)
    if site.component == "pattern":
        rows = rows[..., : change.n_tokens]
    rows = _with_heads(site.component, rows)
    return (rows if site.picked is None else rows[:, list(site.picked)]).flatten(1)
