"""From edits as written to edits of packed rows: checked once, looked up per tile."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from patchpoint.errors import InvalidArgument, PromptError

from .sites import Edit

if TYPE_CHECKING:
    from .model import Model
    from .run import Run

STAGES = ("embed", "z", "attn_out", "resid_mid", "mlp_out", "resid_post")
"""Where an edit acts, in the order a token meets them. `resid_pre` of layer k is `resid_post` of layer k - 1."""


@dataclass(frozen=True, eq=False)
class Change:
    """One edit on one prompt: after which block it acts (-1: before block 0), at which stage, on which tokens."""

    layer: int
    stage: str
    edit: Edit
    prompt: int
    positions: tuple[int, ...]
    picks: tuple[int, ...]
    """Which of the edit's value rows belong to `positions`."""

    def only(self, wanted: Callable[[int], bool]) -> "Change":
        """This change on those of its tokens that are wanted."""
        kept = [i for i, p in enumerate(self.positions) if wanted(p)]
        if len(kept) == len(self.positions):
            return self
        positions, picks = tuple(self.positions[i] for i in kept), tuple(self.picks[i] for i in kept)
        return replace(self, positions=positions, picks=picks)


def resolve(model: "Model", edit: Edit, prompt: int, lengths: Sequence[int]) -> Change:
    """The change an edit makes to one prompt; InvalidArgument or PromptError when it cannot be made."""
    site, n_tokens = edit.site, lengths[prompt]
    _check_place(model, edit)
    positions = (
        tuple(range(n_tokens))
        if site.positions is None
        else tuple(p + n_tokens if p < 0 else p for p in site.positions)
    )
    for given, p in zip(site.positions or positions, positions, strict=True):
        if not 0 <= p < n_tokens:
            raise PromptError(
                f"position {given} of edit {site} is outside prompt {prompt}, which has {n_tokens} tokens"
            )
    if len(set(positions)) != len(positions):
        raise InvalidArgument(f"positions {site.positions} name a token of prompt {prompt} twice")
    _check_value(model, edit, prompt, lengths, len(positions))
    picks = tuple(range(len(positions)))
    if site.component == "resid_pre":
        return Change(site.layer - 1, "resid_post", edit, prompt, positions, picks)
    layer = -1 if site.component == "embed" else site.layer
    return Change(layer, site.component, edit, prompt, positions, picks)


def _check_place(model: "Model", edit: Edit) -> None:
    site = edit.site
    if not 0 <= site.layer < model.n_layers:
        raise InvalidArgument(f"layer {site.layer} of {site}: the model has layers 0 to {model.n_layers - 1}")
    if site.head is not None and not 0 <= site.head < model.n_heads:
        raise InvalidArgument(f"head {site.head} of {site}: the model has heads 0 to {model.n_heads - 1}")
    if site.component == "resid_mid" and model.adapter.blocks[site.layer].parallel:
        raise InvalidArgument(
            f"{model.name} runs attention and MLP in parallel, so it has no resid_mid; use resid_pre or resid_post"
        )


def _width(model: "Model", edit: Edit) -> int:
    """Numbers per token at the edit's site."""
    site, block = edit.site, model.adapter.blocks[edit.site.layer]
    if site.component == "embed":
        return model.d_embed
    if site.component == "z":
        return block.d_head if site.head is not None else block.n_heads * block.d_head
    return model.d_model


def _check_value(model: "Model", edit: Edit, prompt: int, lengths: Sequence[int], n_positions: int) -> None:
    value = edit.value
    if isinstance(value, int | float):
        return
    if isinstance(value, Tensor):
        if value.shape[-1] != (width := _width(model, edit)):
            raise InvalidArgument(
                f"edit {edit.site} has values of width {value.shape[-1]}, the site has {width}"
            )
        if value.ndim >= 2 and value.shape[-2] != n_positions:
            raise InvalidArgument(
                f"edit {edit.site} has values for {value.shape[-2]} tokens, but changes {n_positions}"
            )
        if value.ndim == 3 and value.shape[0] != len(lengths):
            raise InvalidArgument(
                f"edit {edit.site} has values for {value.shape[0]} prompts, but there are {len(lengths)}"
            )
        return
    theirs = value.packing.lengths
    if len(theirs) not in (1, len(lengths)):
        raise InvalidArgument(
            f"the source run of {edit.site} has {len(theirs)} prompts, the base has {len(lengths)}"
        )
    if theirs[prompt if len(theirs) > 1 else 0] != lengths[prompt]:
        raise PromptError(
            f"the source run of {edit.site} has {theirs[prompt if len(theirs) > 1 else 0]} tokens in prompt {prompt}, "
            f"the base has {lengths[prompt]}; the two must be of equal length"
        )


Placed = tuple[Change, int, Sequence[int]]
"""A change, its place among its unit's changes in that block, and its rows."""


@dataclass(frozen=True, eq=False)
class RowEdit:
    """Edits of one kind at one component and stage: state rows in rising order, and a value for each."""

    op: str
    head: int | None
    rows: np.ndarray
    values: Tensor
    """[row, width], or [row, 1] for numbers."""

    def apply(self, component: Tensor, state_start: int, n_rows: int, tile_start: int) -> None:
        """Edit those of state rows state_start ... + n_rows that are ours; they lie from `tile_start` on."""
        low, high = np.searchsorted(self.rows, (state_start, state_start + n_rows))
        if low == high:
            return
        target = component.flatten(1) if self.head is None else component[:, self.head]
        at = torch.from_numpy(self.rows[low:high] - (state_start - tile_start)).to(target.device)
        values = self.values[low:high]
        if self.op == "replace":
            target[at] = values.expand(-1, target.shape[1])
        elif self.op == "add":
            target[at] += values
        else:
            target[at] *= values


def row_edits(model: "Model", changes: Iterable[Placed]) -> dict[str, list[RowEdit]]:
    """Batches per stage, in the order in which they act."""
    kinds: dict[tuple[int, str, str, int | None, int], list[tuple[Change, Sequence[int]]]] = {}
    for change, order, rows in changes:
        edit = change.edit
        key = (order, change.stage, edit.op, edit.site.head, _kind_of_value(edit))
        kinds.setdefault(key, []).append((change, rows))
    batches: dict[str, list[RowEdit]] = {}
    for (_, stage, op, head, _), items in sorted(kinds.items(), key=lambda kind: kind[0][0]):
        all_rows = np.concatenate([np.asarray(rows, dtype=np.int64) for _, rows in items])
        rising = np.argsort(all_rows, kind="stable")
        values = _values(model, [change for change, _ in items])
        batches.setdefault(stage, []).append(
            RowEdit(op, head, all_rows[rising], values[torch.from_numpy(rising).to(values.device)])
        )
    return batches


def apply_to_all(edits: Mapping[str, list[RowEdit]], component: str, rows: Tensor) -> None:
    """Make a component's edits where `rows` are all there are, counted from 0."""
    for edit in edits.get(component, ()):
        edit.apply(rows, 0, len(rows), 0)


def _kind_of_value(edit: Edit) -> int:
    """Equal for edits whose values can be gathered together: numbers, tensors, those of one source run."""
    if isinstance(edit.value, int | float):
        return 0
    return 1 if isinstance(edit.value, Tensor) else id(edit.value)


def _values(model: "Model", changes: list[Change]) -> Tensor:
    """One value row per changed token, in the order of the changes; all changes have one kind of value."""
    like = model.hf.get_input_embeddings().weight
    value = changes[0].edit.value
    if isinstance(value, int | float):
        numbers = [float(c.edit.value) for c in changes for _ in c.positions]  # type: ignore[arg-type]
        return torch.tensor(numbers, device=like.device, dtype=like.dtype)[:, None]
    if isinstance(value, Tensor):
        return torch.cat([_tensor_rows(c).to(like.device, like.dtype) for c in changes])
    site = changes[0].edit.site
    return _run_rows(value, changes, site.head).to(like.device, like.dtype)


def _tensor_rows(change: Change) -> Tensor:
    value = change.edit.value
    assert isinstance(value, Tensor)
    mine = value[change.prompt] if value.ndim == 3 else value
    return mine[list(change.picks)] if mine.ndim == 2 else mine.expand(len(change.picks), -1)


def _run_rows(source: "Run", changes: list[Change], head: int | None) -> Tensor:
    """Rows of another run's activations, gathered layer by layer."""
    by_layer: dict[tuple[str, int], list[int]] = {}
    places: dict[tuple[str, int], list[int]] = {}
    at = 0
    for change in changes:
        offset = source.packing.offsets[change.prompt if len(source.packing.lengths) > 1 else 0]
        key = (change.edit.site.component, change.edit.site.layer)
        by_layer.setdefault(key, []).extend(offset + p for p in change.positions)
        places.setdefault(key, []).extend(range(at, at + len(change.positions)))
        at += len(change.positions)
    parts = []
    for (component, layer), rows in by_layer.items():
        taken = source.rows(component, layer)[torch.tensor(rows, device=source.resid[0].device)]
        parts.append(taken.flatten(1) if head is None else taken[:, head])
    back = torch.tensor([p for rows in places.values() for p in rows]).argsort()
    return torch.cat(parts)[back.to(parts[0].device)]
