"""A run: one batch of prompts through the model once, keeping what sweeps and sources need."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchpoint.errors import InvalidArgument
from patchpoint.models.families import Rotary

from .batch import Batch, Packing
from .edits import Change, resolve
from .layer_pass import through_block
from .prompt_tiles import Tile, tile_rows, whole_prompt_tiles
from .row_edits import Ledger, Placed, StageEdits, row_edits, visit_all
from .sites import PORTS, Edit, Site

if TYPE_CHECKING:
    from .model import Model


@dataclass(frozen=True, eq=False)
class Run:
    """One forward pass of a batch. Rows are packed tokens, `packing` says whose.

    The residual stream, keys and values are always kept, other components where asked for; what was not kept is
    computed again, block by block, when it is read.
    """

    model: "Model"
    batch: Batch
    packing: Packing
    ids: Int[Tensor, " row"]
    positions: Int[Tensor, " row"]
    rotary: Rotary | None
    resid: tuple[Float[Tensor, "row d_model"], ...]
    """resid[k] is what block k reads, resid[n_layers] what the last block leaves."""
    kept: Mapping[str, tuple[Tensor, ...]] = field(repr=False)
    edits: tuple[Edit, ...] = ()
    """The edits it was run with; variants of this run carry them too."""

    @property
    def cache(self) -> "Cache":
        """Activations by site: `run.cache[Site(3, "attn_out")]`."""
        return Cache(self)

    def scored(self, correct: tuple[int, ...], incorrect: tuple[int, ...] | None) -> "Run":
        """This run with answers to score, one token per prompt."""
        return replace(self, batch=Batch(self.batch.tokens, correct, incorrect))

    @cached_property
    def logits(self) -> Float[Tensor, "prompt vocab"]:
        """Logits at each prompt's last token."""
        final = self.final
        with torch.no_grad(), self.model.ends() as adapter:
            return adapter.unembed(final, slice(None))

    @property
    def final_resid(self) -> Float[Tensor, "prompt d_model"]:
        """The stream after the last block at each prompt's last token."""
        return self.resid[-1][torch.tensor(self.packing.final_rows(), device=self.resid[-1].device)]

    @property
    def final(self) -> Float[Tensor, "prompt d_final"]:
        """What the unembedding reads at each prompt's last token."""
        with torch.no_grad(), self.model.ends() as adapter:
            final = adapter.final(self.final_resid)
            lasts = [
                Placed(last, order, [change.prompt], 0)
                for order, change in self.changes.get(self.model.n_layers - 1, ())
                if change.stage == "final"
                and (last := change.only(lambda p, n=change.n_tokens: p == n - 1)).positions  # type: ignore[misc]
            ]
            visit_all(row_edits(self.model, lasts))("final", final)
        return final

    @property
    def tiles(self) -> list[Tile]:
        """Its packed rows in tiles of whole prompts."""
        return whole_prompt_tiles(self.packing, tile_rows(self.model.device))

    def rows(self, component: str, layer: int) -> Tensor:
        """Activations of all packed rows at one component, [row, *axes].

        Axes: (head, d_head) for q and z, (kv_head, d_head) for k and v, (head, key) for pattern (zeros behind a
        prompt's own tokens), (head, d_model) for heads' inputs, (neuron,) for mlp_post, (d_model,) for most.
        """
        if component in ("resid_pre", "resid_post"):
            return self.resid[layer + (component == "resid_post")]
        if component in self.kept:
            return self.kept[component][layer]
        with torch.no_grad():
            return self._again(component, layer)

    def own_edits(self, layer: int, ledger: Ledger | None = None) -> StageEdits:
        """The edits it was run with in one block (-1: before block 0), on packed rows."""
        offsets = self.packing.offsets
        found = [
            Placed(change, order, [offsets[change.prompt] + p for p in change.positions], 0)
            for order, change in self.changes.get(layer, ())
        ]
        return row_edits(self.model, found, ledger)

    def own_stages(self, layer: int) -> set[str]:
        """The stages of one block at which it was edited."""
        return {change.stage for _, change in self.changes.get(layer, ())}

    @cached_property
    def changes(self) -> dict[int, list[tuple[int, Change]]]:
        """What its own edits change, by block, each change with its edit's place in their order."""
        return changes_by_layer(self.model, self.edits, self.packing)

    def _again(self, component: str, layer: int) -> Tensor:
        """A component that was not kept."""
        if component in ("embed", "final"):
            with self.model.ends() as adapter:
                found = adapter.embed(self.ids) if component == "embed" else adapter.final(self.resid[-1])
            visit_all(self.own_edits(-1 if component == "embed" else layer))(component, found)
            return found
        edits, stream = self.own_edits(layer), self.resid[layer].clone()
        if component in PORTS and component not in edits:
            return stream[:, None].expand(-1, self.model.n_heads, -1)
        with self.model.block(layer) as block:
            if component == "resid_mid" and block.parallel:
                raise InvalidArgument(
                    f"{self.model.name} runs attention and MLP in parallel, so it has no resid_mid"
                )
            return through_block(block, stream, self.rotary, self.tiles, edits, (component,))[component]


def changes_by_layer(
    model: "Model", edits: Sequence[Edit], packing: Packing
) -> dict[int, list[tuple[int, Change]]]:
    """The changes of all prompts by block, each with its place in the order of the edits."""
    found: dict[int, list[tuple[int, Change]]] = {}
    for order, edit in enumerate(edits):
        for prompt in range(len(packing.lengths)):
            change = resolve(model, edit, prompt, packing.lengths)
            found.setdefault(change.layer, []).append((order, change))
    return found


@dataclass(frozen=True, eq=False)
class Cache:
    """What a run computed, read by site."""

    run: Run

    def __getitem__(self, site: Site) -> Tensor | tuple[Tensor, ...]:
        """[prompt, pos, width] for prompts of one length; [prompt, pos, head, width] unless one head is named.

        Prompts of different lengths give one tensor each, without the first axis. Tensors are copies. width of
        `pattern` is the prompt's number of tokens; one neuron has no width.
        """
        packing = self.run.packing
        found = [
            resolve(self.run.model, Edit(site, "scale", 1.0), prompt, packing.lengths)
            for prompt in range(len(packing.lengths))
        ]
        rows = self.run.rows(site.component, found[0].edit.site.layer)
        picked = site.head if site.neuron is None else site.neuron
        if picked is not None:
            rows = rows[:, picked if isinstance(picked, int) else list(picked)]
        per_prompt = []
        for change in found:
            start = packing.offsets[change.prompt]
            mine = rows[torch.tensor([start + p for p in change.positions], device=rows.device)]
            per_prompt.append(mine[..., : change.n_tokens] if site.component == "pattern" else mine)
        alike = len({part.shape for part in per_prompt}) == 1
        return torch.stack(per_prompt) if alike else tuple(per_prompt)
