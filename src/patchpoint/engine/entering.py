"""Units that first differ from the base in a block: the base's stream behind it, then their own changed tokens.

Other tokens cannot see a change made behind attention before the next block, so the changed ones alone are computed
again, from the point in the block where they change.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from .packed import after_attention, after_mlp
from .placing import placed
from .plan import AFTER_BLOCK, Group
from .prompt_tiles import tile_rows
from .row_edits import Ledger, Placed, row_edits, visit_all, visit_slabs
from .run import Run
from .tiles import Slab, base_rows
from .unedited import z_of
from .visit import Visit


def enter(base: Run, groups: Sequence[Group], layer: int, rows: Tensor, ledger: Ledger) -> None:
    """Write the units that enter behind block `layer` (-1: before block 0) into the state, or the final rows."""
    last = layer == base.model.n_layers - 1
    whole: list[Placed] = []
    mlp_alone: list[Placed] = []
    behind: list[Placed] = []
    mlp_out_kept = _mlp_out_kept(base, layer)
    for group in groups:
        first, end = group.entered_before(layer), group.entered_before(layer + 1)
        if first == end:
            continue
        slab = Slab(group, first, end - first)
        from_token = group.n_tokens - 1 if last else group.first
        taken = base_rows(base, slab, from_token, group.n_tokens).flatten()
        start = slab.unit_start if last else slab.state_start
        torch.index_select(base.resid[layer + 1], 0, taken, out=rows[start : start + len(taken)])
        for index in range(first, end):
            changes = placed(base, group, index, layer)
            behind += [item for item in changes if item.change.stage in AFTER_BLOCK]
            inside = [item for item in changes if item.change.stage not in AFTER_BLOCK]
            only_mlp = all(item.change.stage == "mlp_out" for item in inside)
            (mlp_alone if only_mlp and mlp_out_kept else whole).extend(inside)
    if layer < 0:
        _from_embedding(base, rows, whole, ledger)
    else:
        _from_heads(base, layer, rows, whole, ledger)
        _from_mlp_out(base, layer, rows, mlp_alone, ledger)
    visit_all(row_edits(base.model, behind, ledger))("resid_post", rows)


def _mlp_out_kept(base: Run, layer: int) -> bool:
    return layer >= 0 and {"attn_out", "mlp_out"} <= base.kept.keys() and not base.own_stages(layer)


def _from_embedding(base: Run, rows: Tensor, changes: list[Placed], ledger: Ledger) -> None:
    def compute(source: Tensor, visit: Visit) -> Tensor:
        embed = adapter.embed(base.ids[source])
        visit("embed", embed)
        return adapter.resid_pre(embed, base.positions[source])

    with base.model.ends() as adapter:
        _compute_changed(base, rows, changes, ledger, compute)


def _from_heads(base: Run, layer: int, rows: Tensor, changes: list[Placed], ledger: Ledger) -> None:
    if not changes:
        return
    block, z = base.model.adapter.blocks[layer], z_of(base, layer)

    def compute(source: Tensor, visit: Visit) -> Tensor:
        resid = base.resid[layer][source]
        after_attention(block, resid, z[source], visit)
        return resid

    _compute_changed(base, rows, changes, ledger, compute)


def _from_mlp_out(base: Run, layer: int, rows: Tensor, changes: list[Placed], ledger: Ledger) -> None:
    def compute(source: Tensor, visit: Visit) -> Tensor:
        resid = base.resid[layer][source] + base.kept["attn_out"][layer][source]
        after_mlp(resid, base.kept["mlp_out"][layer][source], visit)
        return resid

    _compute_changed(base, rows, changes, ledger, compute)


def _compute_changed(
    base: Run,
    rows: Tensor,
    changes: list[Placed],
    ledger: Ledger,
    compute: Callable[[Tensor, Visit], Tensor],
) -> None:
    """Compute the changed rows alone, tile by tile, and put them among `rows`."""
    if not changes:
        return
    at = np.concatenate([np.asarray(item.rows) for item in changes])
    offsets = base.packing.offsets
    base_at = np.concatenate([offsets[c.change.prompt] + np.asarray(c.change.positions) for c in changes])
    places, one_each = np.unique(at, return_index=True)
    compact = [
        Placed(item.change, item.order, np.searchsorted(places, np.asarray(item.rows)), item.variant)  # type: ignore[arg-type]
        for item in changes
    ]
    edits = row_edits(base.model, compact, ledger)
    target = torch.from_numpy(places).to(rows.device)
    source = torch.from_numpy(base_at[one_each]).to(rows.device)
    most = tile_rows(rows.device)
    for start in range(0, len(places), most):
        part = source[start : start + most]
        visit = visit_slabs(edits, [(start, len(part), 0)])
        rows[target[start : start + most]] = compute(part, visit)
