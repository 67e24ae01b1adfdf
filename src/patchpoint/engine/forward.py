"""The forward pass that makes a run."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import torch

from patchpoint.errors import EditNotApplied, InvalidArgument, UnknownName
from patchpoint.models.families import Rotary

from .batch import Batch, Packing, packed_ids
from .edits import check_together, width_of
from .layer_pass import through_block
from .memory import GIB, budget_bytes
from .prompt_tiles import tile_rows, whole_prompt_tiles
from .row_edits import Ledger, visit_all
from .run import Run
from .sites import Edit, Site

if TYPE_CHECKING:
    from .model import Model

KEEPABLE = ("q", "z", "attn_out", "resid_mid", "mlp_post", "mlp_out")
KEPT = ("z", "attn_out", "resid_mid", "mlp_out")
"""What is kept unless something else is asked for."""


@torch.no_grad()
def forward(
    model: "Model",
    batch: Batch,
    edits: Sequence[Edit] = (),
    keep: Collection[str] = KEPT,
    memory_gib: float | None = None,
) -> Run:
    """Run a batch through the model, with edits on every prompt. Equal to its prompts run one by one."""
    adapter = model.adapter
    packing = Packing(tuple(len(ids) for ids in batch.tokens))
    check_together(model, edits)
    _check_keep(model, keep, packing, memory_gib)
    keep = [name for name in keep if name != "resid_mid" or not adapter.blocks[0].parallel]
    ids, positions = packed_ids(batch, packing, model.device)
    with model.ends():
        tables = {n: adapter.rotary(n) for n in set(packing.lengths)}
    angles = [table for prompt in packing.order if (table := tables[packing.lengths[prompt]]) is not None]
    rotary = Rotary.cat(angles) if angles else None
    # A run of no layers yet: it knows where its edits lie.
    begun = Run(model, batch, packing, ids, positions, rotary, (), {}, tuple(edits))
    ledger = Ledger.of(1, model.device)

    before = visit_all(begun.own_edits(-1, ledger=ledger))
    with model.ends():
        embed = adapter.embed(ids)
        before("embed", embed)
        stream = adapter.resid_pre(embed, positions)
    before("resid_post", stream)
    resid = [stream]
    kept: dict[str, list[torch.Tensor]] = {name: [] for name in ("k", "v", *keep)}
    tiles = whole_prompt_tiles(packing, tile_rows(model.device))
    for layer in range(model.n_layers):
        stream, own = stream.clone(), begun.own_edits(layer, ledger=ledger)
        with model.block(layer) as block:
            rows_of = through_block(block, stream, rotary, tiles, own, kept)
        resid.append(stream)
        for name, layers in kept.items():
            layers.append(rows_of[name])
    _check_applied(begun, int(ledger.rows[0]))
    layers_of = {name: tuple(layers) for name, layers in kept.items()}
    return Run(model, batch, packing, ids, positions, rotary, tuple(resid), layers_of, tuple(edits))


def _check_applied(run: Run, n_rows: int) -> None:
    """EditNotApplied unless every edit was made on every row; those of `final` are made when it is read."""
    asked = sum(
        len(change.positions)
        for changes in run.changes.values()
        for _, change in changes
        if change.stage != "final"
    )
    if n_rows != asked:
        raise EditNotApplied(f"of {asked} edited tokens of this run only {n_rows} were changed")


def _check_keep(model: "Model", keep: Collection[str], packing: Packing, memory_gib: float | None) -> None:
    for name in keep:
        if name not in KEEPABLE:
            raise UnknownName("component to keep", name, KEEPABLE)
    widths = model.d_model + sum(width_of(model, Site(0, name), 0) for name in ("k", "v", *keep))
    needed = packing.n_rows * widths * model.n_layers * model.dtype.itemsize
    if needed > (budget := budget_bytes(memory_gib, model.device)):
        raise InvalidArgument(
            f"keeping {packing.n_rows} tokens of this model takes {needed / GIB:.2f} GiB, the budget is "
            f"{budget / GIB:.2f} GiB; give fewer prompts, a larger memory budget or keep=() "
        )
