"""Where the changes of a chunk's units lie among its rows."""

from collections.abc import Sequence

from .edits import READ_BY_LATER_TOKENS
from .plan import Group
from .row_edits import Ledger, Placed, StageEdits, row_edits
from .run import Run


def placed(base: Run, group: Group, index: int, layer: int) -> list[Placed]:
    """A unit's changes in one block, `final` left out, in order.

    Rows are those of the state, but in the last block, where only final tokens go on from the queries on, the
    unit's one row among the chunk's units.
    """
    unit, last = group.units[index], layer == base.model.n_layers - 1
    found = []
    for order, change in enumerate(unit.changes):
        if change.layer != layer or change.stage == "final":
            continue
        if last and change.stage not in READ_BY_LATER_TOKENS:
            rows = [group.unit_start + index]
        else:
            rows = group.state_rows(index, change.positions)
        found.append(Placed(change, order, rows, -1 if order in unit.made_again else unit.variant))
    return found


def edits_at_work(base: Run, groups: Sequence[Group], layer: int, ledger: Ledger) -> StageEdits:
    """Edits in this block of units that entered below it."""
    found: list[Placed] = []
    for group in groups:
        for index in group.edited_above_entry.get(layer, ()):
            found += placed(base, group, index, layer)
    return row_edits(base.model, found, ledger)


def final_edits(base: Run, groups: Sequence[Group], ledger: Ledger) -> StageEdits:
    """Edits of what the unembedding reads, one row per unit of the chunk."""
    found = [
        Placed(change, order, [group.unit_start + index], -1 if order in unit.made_again else unit.variant)
        for group in groups
        for index, unit in enumerate(group.units)
        for order, change in enumerate(unit.changes)
        if change.stage == "final"
    ]
    return row_edits(base.model, found, ledger)
