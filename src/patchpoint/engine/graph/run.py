"""Graph runs: the clean prompts with only some edges intact, all others carrying corrupted outputs."""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patchpoint.engine.memory import budget_bytes
from patchpoint.engine.metrics import Asked, LogitsMetric, Readout, Rows, metric_of
from patchpoint.engine.prompt_tiles import tile_rows
from patchpoint.engine.run import Run

from .edges import Graph, KeptEdges
from .held import run_graph
from .pairs import check_pair, pairs_of
from .wiring import Wiring

SHARE_OF_TILE = 4
"""A tile's rows per row of a graph run, so that a sweep takes at least so many changes of it at once."""


@dataclass(frozen=True, eq=False)
class GraphRun:
    """A pair of runs joined by a set of kept edges."""

    clean: Run
    corrupt: Run
    kept: Bool[Tensor, "sender port"] = field(repr=False)
    """On the CPU; senders and ports in the order of `Graph.of(model)`."""
    metric: str | LogitsMetric
    final_resid: Float[Tensor, "prompt d_model"] = field(repr=False)
    """The stream that the logits read at each prompt's last token."""

    @property
    def graph(self) -> Graph:
        """Senders and ports of its model."""
        return Graph.of(self.clean.model)

    @cached_property
    def logits(self) -> Float[Tensor, "prompt vocab"]:
        """Logits at each prompt's last token."""
        with torch.no_grad(), self.clean.model.ends() as adapter:
            return adapter.unembed(adapter.final(self.final_resid), slice(None))

    @cached_property
    def values(self) -> Float[Tensor, " prompt"]:
        """Its metric for each prompt, on the CPU; InvalidArgument where answers are missing."""
        return self.measured(self.metric)

    def measured(self, metric: str | LogitsMetric) -> Float[Tensor, " prompt"]:
        """A metric for each prompt, on the CPU; UnknownName, InvalidArgument."""
        prompts = torch.arange(len(self.final_resid), device=self.final_resid.device)
        return self.measured_at(metric, self.final_resid, prompts)

    @torch.no_grad()
    def measured_at(
        self,
        metric: str | LogitsMetric,
        final_resid: Float[Tensor, "row d_model"],
        prompts: Int[Tensor, " row"],
    ) -> Float[Tensor, " row"]:
        """The metric of other final streams of its prompts, on the CPU."""
        asked = self._asked
        with self.clean.model.ends() as adapter:
            readout = Readout(adapter, adapter.final(final_resid))
            return metric_of(metric)(Rows(readout, prompts, asked)).cpu()

    @cached_property
    def _asked(self) -> Asked:
        return Asked.of(self.clean.batch, Readout(self.clean.model.adapter, self.clean.final))


@torch.no_grad()
def graph_run(
    clean: Run,
    corrupt: Run,
    kept: KeptEdges,
    metric: str | LogitsMetric = "logit_diff",
    *,
    memory_gib: float | None = None,
) -> GraphRun:
    """The clean prompts with `kept` edges alone intact.

    Every port reads the corrupted run's stream plus, for each kept edge, what its sender writes now less what it
    wrote in the corrupted run; the embedding writes what it does in the clean run. So the graph of all edges is
    the clean run and the graph of none the corrupted one, to the last bit. A head reads with its queries, keys
    and values separately, keys and values per query head in grouped-query models too. Conmy et al. 2023
    (https://arxiv.org/abs/2304.14997), section 3.

    `kept` is a table, bool [sender, port] (what a port cannot read is ignored), or edges such as
    `("9.1", "10.0.q")`; `metric` one of METRICS or a function of logits as in `sweep`, with the clean run's
    answers, and for `kl` against the clean run. Prompts may differ in length from each other, not from their
    corrupted ones. `memory_gib` bounds what is held at once, down to one prompt (default: half of what is free).
    Raises PromptError, UnknownName or InvalidArgument.
    """
    check_pair(clean, corrupt)
    metric_of(metric)
    wiring = Wiring.of(clean.model, kept)
    final = clean.final_resid
    for pairs in pairs_of(clean, corrupt, rows_at_once(wiring, memory_gib)):
        final[list(pairs.prompts)] = run_graph(pairs, wiring).final[:, 0].to(final.dtype)
    return GraphRun(clean, corrupt, wiring.kept, metric, final)


def rows_at_once(wiring: Wiring, memory_gib: float | None) -> int:
    """Rows of a graph run that fit half of the budget, and a share of what one step takes through a block."""
    model, graph = wiring.model, wiring.graph
    n_inputs = sum(sum(part.shape[1] for part in wiring.heads_kept(k)) for k in range(model.n_layers))
    held = 2 * len(graph.senders) + n_inputs + 2 * model.n_layers
    block = wiring.blocks[0]
    widths = held * model.d_model + model.n_layers * 4 * block.n_heads * block.d_head + one_layer(wiring)
    most = budget_bytes(memory_gib, model.device) // 2 // (widths * wiring.dtype.itemsize)
    return max(1, min(most, tile_rows(model.device) // SHARE_OF_TILE))


def one_layer(wiring: Wiring) -> int:
    """Numbers per row while one layer is computed: copies of the heads' inputs and outputs, and neurons."""
    model, block = wiring.model, wiring.blocks[0]
    return (6 * model.n_heads + 10) * model.d_model + 4 * (block.d_mlp or 4 * model.d_model)
