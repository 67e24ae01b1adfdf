"""Attributions: what patching a node's or an edge's corrupted output into the clean run would do, to first order.

The score of a node is (its corrupted output - its clean output) . d metric / d its output (attribution patching:
Nanda 2023, "Attribution patching: activation patching at industrial scale"; Kramar et al. 2024, arXiv 2403.00745);
that of an edge takes the gradient at the receiver's port instead (EAP: Syed et al. 2023, arXiv 2310.10348). Both
are estimates: exact only where the metric is linear in what is patched.

With `steps` = 1 gradients are those of the clean run. With more they are averaged over the points
x_corrupt + (i / steps) (x_clean - x_corrupt), i = 1 ... steps, x the stream before block 0, all positions at once:
the right ends of equal steps, the clean run last (EAP-IG on inputs: Hanna et al. 2024, arXiv 2403.17806). Output
differences stay those between the clean and the corrupted run.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patchpoint.engine.graph.nodes import PARTS, n_readable, ports, senders
from patchpoint.engine.memory import GIB, budget_bytes, even_cuts
from patchpoint.engine.metrics import LogitsMetric
from patchpoint.engine.run import Run
from patchpoint.errors import InvalidArgument, PromptError

from .final import check_unedited, final_gradient, slopes_of
from .layers import LayerGradients, layer_gradients, rows_within
from .run_parts import part_of, rows_of, run_between

DIFFERENCES_SHARE, BLOCK_SHARE = 0.5, 0.25
"""Of the memory budget: for differences of outputs and runs on the way, and for one block going down."""


@torch.no_grad()
def attribute_nodes(
    clean: Run,
    corrupt: Run,
    metric: str | LogitsMetric = "logit_diff",
    *,
    steps: int = 1,
    memory_gib: float | None = None,
) -> xr.DataArray:
    """Estimated change of each prompt's metric when a node's corrupted output replaces its clean one.

    Dims (node, prompt), float32, in units of the metric, positive where patching raises it. Nodes are the
    embedding (the stream before block 0), every head (its z) and every MLP, each at all tokens. `metric`: a name
    in GRADED or a function of final logits as in `sweep`; `kl` compares with the clean run and needs steps > 1.
    `steps`: points at which gradients are taken, as the module's docstring says. `memory_gib` bounds what is
    allocated beside the runs (default: half of what is free). Raises UnknownName, InvalidArgument, and
    PromptError unless prompts have equal lengths one by one.
    """
    _check(clean, corrupt, metric, steps)
    model, budget = clean.model, budget_bytes(memory_gib, clean.model.device)
    nodes = senders(model)
    scores = torch.zeros(len(nodes), len(clean.packing.lengths), device=model.device)
    block = model.adapter.blocks[0]
    differing = 4 * model.n_layers * (block.n_heads * block.d_head + model.d_model)
    costs = [n * (_point_bytes(clean) + differing) for n in _lengths(clean)]
    for first, end in _chunks(clean, costs, budget):
        part = _NodeDifferences.between(clean, corrupt, first, end)
        for point, final in _points(clean, corrupt, metric, steps, (first, end), memory_gib):
            for found in layer_gradients(point, final, memory_gib=budget * BLOCK_SHARE / GIB):
                part.add_scores(found, scores)
    return xr.DataArray(
        (scores / steps).cpu().numpy(),
        dims=("node", "prompt"),
        coords={"node": [str(node) for node in nodes]},
    )


@torch.no_grad()
def attribute_edges(
    clean: Run,
    corrupt: Run,
    metric: str | LogitsMetric = "logit_diff",
    *,
    steps: int = 1,
    memory_gib: float | None = None,
) -> xr.DataArray:
    """Estimated change of the metric, mean over prompts, when one edge carries the corrupted output.

    Dims (sender, port), float32, NaN where the port cannot read the sender. Senders: the embedding (the stream
    before block 0), heads (what they add to the stream) and MLPs; ports: each head's own q, k and v inputs (on
    grouped-query models too), MLPs' inputs, the logits. Otherwise as `attribute_nodes`.
    """
    _check(clean, corrupt, metric, steps)
    model, budget = clean.model, budget_bytes(memory_gib, clean.model.device)
    all_senders, all_ports = senders(model), ports(model)
    scores = torch.zeros(len(all_senders), len(all_ports), device=model.device)
    changed = changed_rows(clean, corrupt)
    per_changed = 4 * len(all_senders) * model.d_model
    costs = [
        n * _point_bytes(clean) + int(changed[clean.packing.rows(prompt)].sum()) * per_changed
        for prompt, n in zip(clean.packing.order, _lengths(clean), strict=True)
    ]
    for first, end in _chunks(clean, costs, budget):
        part = _EdgeDifferences.between(clean, corrupt, rows_of(clean, first, end), changed)
        for point, final in _points(clean, corrupt, metric, steps, (first, end), memory_gib):
            part.add_logits_scores(point, final, scores)
            for found in layer_gradients(point, final, memory_gib=budget * BLOCK_SHARE / GIB):
                part.add_scores(found, scores)
    scores /= steps * len(clean.packing.lengths)
    for column, port in enumerate(all_ports):
        scores[n_readable(model, port) :, column] = torch.nan
    return xr.DataArray(
        scores.cpu().numpy(),
        dims=("sender", "port"),
        coords={"sender": [str(node) for node in all_senders], "port": [str(port) for port in all_ports]},
    )


def changed_rows(clean: Run, corrupt: Run) -> Bool[Tensor, " row"]:
    """Rows at which the streams of two runs differ in any layer; at others no sender's outputs do."""
    return torch.stack([(a != b).any(-1) for a, b in zip(clean.resid, corrupt.resid, strict=True)]).any(0)


@dataclass(frozen=True, eq=False)
class _NodeDifferences:
    """Corrupted minus clean outputs of nodes on the rows of some prompts."""

    prompts: Int[Tensor, " row"]
    """Whose row it is."""
    embed: Float[Tensor, "row d_model"]
    z: Sequence[Float[Tensor, "row head d_head"]]
    """Per layer."""
    mlp_out: Sequence[Float[Tensor, "row d_model"]]

    @classmethod
    def between(cls, clean: Run, corrupt: Run, first: int, end: int) -> "_NodeDifferences":
        rows, device, layers = rows_of(clean, first, end), clean.model.device, range(clean.model.n_layers)
        prompts = torch.tensor(clean.packing.order[first:end], device=device)
        lengths = torch.tensor(_lengths(clean)[first:end], device=device)
        return cls(
            prompts.repeat_interleave(lengths),
            _difference(clean, corrupt, "resid_pre", 0, rows),
            [_difference(clean, corrupt, "z", layer, rows) for layer in layers],
            [_difference(clean, corrupt, "mlp_out", layer, rows) for layer in layers],
        )

    def add_scores(self, found: LayerGradients, scores: Float[Tensor, "node prompt"]) -> None:
        """Scores of a layer's heads and MLP; of the embedding too, once layer 0 is reached."""
        rows, k = found.rows, found.layer
        heads = (self.z[k][rows] * found.z).sum(-1)
        mlp = (self.mlp_out[k][rows] * found.mlp_out).sum(-1)
        block = torch.cat((heads, mlp[:, None]), dim=1).float()
        first = 1 + k * block.shape[1]
        scores[first : first + block.shape[1]].index_add_(1, self.prompts[rows], block.T)
        if k == 0:
            embed = (self.embed[rows] * found.resid_pre).sum(-1).float()
            scores[0].index_add_(0, self.prompts[rows], embed)


@dataclass(frozen=True, eq=False)
class _EdgeDifferences:
    """What senders' corrupted outputs add to the stream beyond their clean ones, on the rows of some prompts."""

    outputs: Float[Tensor, "sender changed d_model"]
    """On changed rows alone: they are 0 on the others."""
    changed: Bool[Tensor, " row"]

    @classmethod
    def between(
        cls, clean: Run, corrupt: Run, rows: slice, changed: Bool[Tensor, " row"]
    ) -> "_EdgeDifferences":
        model, at = clean.model, rows.start + changed[rows].nonzero()[:, 0]
        outputs = torch.empty(len(senders(model)), len(at), model.d_model, device=model.device)
        outputs[0] = _difference(clean, corrupt, "resid_pre", 0, at)
        for layer in range(model.n_layers):
            first = 1 + layer * (model.n_heads + 1)
            mlp = first + model.n_heads
            with model.block(layer) as block:
                new, old = (
                    block.heads_out(run.rows("z", layer)[at]).transpose(0, 1) for run in (corrupt, clean)
                )
            outputs[first:mlp].copy_(new).sub_(old)
            outputs[mlp] = _difference(clean, corrupt, "mlp_out", layer, at)
        return cls(outputs, changed[rows])

    def add_scores(self, found: LayerGradients, scores: Float[Tensor, "sender port"]) -> None:
        """Scores of the edges into one layer's heads and MLP: one matrix product for all its ports."""
        chosen = self.changed[found.rows].nonzero()[:, 0]
        if not len(chosen):
            return
        n_heads = found.z.shape[1]
        gradients = self.outputs.new_empty(n_heads * len(PARTS) + 1, len(chosen), self.outputs.shape[2])
        for number, part in enumerate(PARTS):
            gradients[number : -1 : len(PARTS)] = found.port(part, chosen).transpose(0, 1)
        gradients[-1] = found.mlp_in[chosen]
        # A sequential block's MLP reads the block's heads, its head ports do not: what they get here is dropped.
        n_senders = (found.layer + 1) * (n_heads + 1)
        columns = slice(found.layer * len(gradients), (found.layer + 1) * len(gradients))
        start = int(self.changed[: found.rows.start].sum())
        outputs = self.outputs[:n_senders, start : start + len(chosen)]
        scores[:n_senders, columns] += outputs.flatten(1) @ gradients.flatten(1).T

    def add_logits_scores(
        self, run: Run, final: Float[Tensor, "prompt d_model"], scores: Float[Tensor, "sender port"]
    ) -> None:
        """Scores of the edges into the logits."""
        rows = torch.tensor(run.packing.final_rows(), device=final.device)
        chosen = self.changed[rows]
        outputs = self.outputs[:, (self.changed.cumsum(0) - 1)[rows[chosen]]]
        scores[:, -1] += outputs.flatten(1) @ final[chosen].float().flatten()


def _difference(clean: Run, corrupt: Run, component: str, layer: int, rows: slice | Tensor) -> Tensor:
    new, old = (run.rows(component, layer)[rows].float() for run in (corrupt, clean))
    return new - old


def _check(clean: Run, corrupt: Run, metric: str | LogitsMetric, steps: int) -> None:
    if clean.model is not corrupt.model:
        raise InvalidArgument(
            "the clean and the corrupted run are of different models; give runs of one model"
        )
    theirs, ours = corrupt.packing.lengths, clean.packing.lengths
    if len(theirs) != len(ours):
        raise PromptError(f"the clean run has {len(ours)} prompts, the corrupted {len(theirs)}; give pairs")
    if unequal := [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]:
        raise PromptError(
            f"prompt {unequal[0]} has {ours[unequal[0]]} clean tokens and {theirs[unequal[0]]} corrupted ones "
            f"({len(unequal)} such prompts); the two must be of equal length"
        )
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InvalidArgument(f"steps must be a whole number of at least 1, got {steps!r}")
    slopes_of(metric)
    if metric == "kl" and steps == 1:
        raise InvalidArgument(
            "kl to the clean run has gradient 0 at the clean run itself; give steps of 2 or more"
        )
    check_unedited(clean)


def _lengths(run: Run) -> list[int]:
    """Tokens of each prompt in packed order."""
    return [run.packing.lengths[prompt] for prompt in run.packing.order]


def _point_bytes(run: Run) -> int:
    """Bytes of a run per token: streams, keys and values."""
    block, layers = run.model.adapter.blocks[0], run.model.n_layers
    return run.model.dtype.itemsize * (layers + 1) * (run.model.d_model + 2 * block.n_heads * block.d_head)


def _chunks(run: Run, costs: list[int], budget: int) -> Iterator[tuple[int, int]]:
    """Prompts in packed order, from and up to which number, so that their bytes fit their share of the budget."""
    most = int(budget * DIFFERENCES_SHARE)
    if max(costs) > most:
        raise InvalidArgument(
            f"attributions of one prompt of {_lengths(run)[costs.index(max(costs))]} tokens hold "
            f"{max(costs) / GIB:.2f} GiB of {most / GIB:.2f} GiB there are for that (half of the budget); "
            "give a larger memory budget or shorter prompts"
        )
    rows_within(run, int(budget * BLOCK_SHARE))
    first = 0
    for end in even_cuts(costs, most):
        yield first, end
        first = end


def _points(
    clean: Run,
    corrupt: Run,
    metric: str | LogitsMetric,
    steps: int,
    chunk: tuple[int, int],
    memory_gib: float | None,
) -> Iterator[tuple[Run, Float[Tensor, "prompt d_model"]]]:
    """The runs of some prompts at which gradients are taken, with those of their final streams; the clean one last."""
    start, end = part_of(corrupt, *chunk), part_of(clean, *chunk)
    numbers = torch.tensor(clean.packing.order[slice(*chunk)], device=clean.model.device)
    own = metric if isinstance(metric, str) else _numbered(metric, numbers)
    for step in range(1, steps):
        point = run_between(start, end, step / steps, memory_gib)
        yield point, final_gradient(point, own, base=end)
    yield end, final_gradient(end, own, base=end)


def _numbered(metric: LogitsMetric, numbers: Int[Tensor, " prompt"]) -> LogitsMetric:
    """A metric that is told the prompts' numbers in the whole batch."""
    return lambda logits, prompts: metric(logits, numbers[prompts])
