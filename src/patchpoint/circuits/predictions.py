"""What the model says when parts of it are ablated: tables of predictions, and circuits of what changes them.

Lan et al. 2024, arXiv 2311.04131: outputs of ablated models as tokens, prompt by prompt and node by node.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from patchpoint.engine import Model
from patchpoint.engine.metrics import LogitsMetric
from patchpoint.engine.sweep import Progress
from patchpoint.errors import InvalidArgument
from patchpoint.models.tokens import token_texts
from patchpoint.tasks.prompts import Prompts

from .ablation import ablate_nodes_by_prompt
from .circuit import Circuit, Origin, Step
from .evaluation import stand_in, without
from .members import members

TEXT_WIDTH = 28
"""Characters of a prompt's end that the table as text shows."""


@dataclass(frozen=True)
class Said:
    """A next token with its probability."""

    token: int
    text: str
    prob: float

    def __str__(self) -> str:
        return f"{self.text!r} {self.prob:.2f}"


@dataclass(frozen=True)
class Prediction:
    """The likeliest next tokens of one prompt, first the likeliest, with all nodes and without some."""

    prompt: str
    correct: str
    before: tuple[Said, ...]
    after: tuple[Said, ...]
    was_correct: bool
    still_correct: bool

    @property
    def changed(self) -> bool:
        """Whether the likeliest token is another one."""
        return self.before[0].token != self.after[0].token


@dataclass(frozen=True)
class Predictions:
    """The predictions for all prompts without one set of nodes; as text, a table."""

    model: str
    removed: tuple[str, ...]
    ablation: str
    rows: tuple[Prediction, ...]

    def __str__(self) -> str:
        head = ("prompt", "correct", "before", "after", "still correct")
        lines = [head, *(_cells(row) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        ]
        counts = [sum(row.was_correct for row in self.rows), sum(row.still_correct for row in self.rows)]
        title = (
            f"{self.model} without {', '.join(self.removed) or 'nothing'} ({self.ablation}): "
            f"{counts[1]} of {len(self.rows)} prompts right, {counts[0]} with all nodes"
        )
        return "\n".join([title, *table])


def _cells(row: Prediction) -> tuple[str, ...]:
    text = row.prompt if len(row.prompt) <= TEXT_WIDTH else f"...{row.prompt[3 - TEXT_WIDTH :]}"
    before, after = (", ".join(map(str, said)) for said in (row.before, row.after))
    return repr(text), repr(row.correct), before, after, "yes" if row.still_correct else "no"


def predictions(
    model: Model,
    data: Prompts,
    removed: Sequence[str] | Circuit,
    *,
    top: int = 5,
    ablation: str = "mean",
    over: str = "position",
    seed: int = 0,
    memory_gib: float | None = None,
) -> Predictions:
    """The `top` likeliest next tokens of each clean prompt, with all nodes and without those `removed`.

    Ablations are those of `ablate_nodes`. Right is any token that only correct answers begin with, behind the
    tokens that all answers share. Raises UnknownName, InvalidArgument, PromptError, ResultsError.
    """
    if not 1 <= top <= model.adapter.d_vocab:
        raise InvalidArgument(f"top must be from 1 to the vocabulary's {model.adapter.d_vocab}, got {top}")
    nodes = members(model, removed)
    edits = without(nodes, stand_in(model, data, ablation, over, seed, memory_gib)).edits
    before, after = (
        _likeliest(model, model.run(data.clean, edits=each, keep=(), memory_gib=memory_gib).logits, top)
        for each in ((), edits)
    )
    texts = data.clean_texts or tuple("" for _ in before)
    rows = [
        Prediction(
            text,
            token_texts(model.tokenizer, [data.correct_tokens[number]])[0],
            before[number],
            after[number],
            before[number][0].token in _right(data, number),
            after[number][0].token in _right(data, number),
        )
        for number, text in enumerate(texts)
    ]
    return Predictions(model.name, tuple(map(str, nodes)), ablation, tuple(rows))


def predictions_by_node(
    model: Model,
    data: Prompts,
    *,
    ablation: str = "mean",
    over: str = "position",
    seed: int = 0,
    memory_gib: float | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """What the model says without each single head and MLP, from one sweep.

    Variables (node, prompt): `token` and its `text`, `changed` (another one than with all nodes), `right`; (prompt):
    `full` and `full_text`, with all nodes, and `correct`. Arguments and errors are those of `ablate_nodes`.
    """
    swept = ablate_nodes_by_prompt(
        model,
        data,
        ablation,
        metric=likeliest_token,
        over=over,
        seed=seed,
        memory_gib=memory_gib,
        progress=progress,
    )
    token, full = swept.values.astype(np.int64), swept["clean"].values.astype(np.int64)
    text_of = {number: token_texts(model.tokenizer, [number])[0] for number in {*token.flat, *full.flat}}
    right = [[each in _right(data, n) for n, each in enumerate(row)] for row in token.tolist()]
    cells = ("node", "prompt")
    return xr.Dataset(
        {
            "token": (cells, token),
            "text": (cells, np.array([[text_of[each] for each in row] for row in token], dtype=object)),
            "changed": (cells, token != full),
            "right": (cells, np.array(right)),
            "full": ("prompt", full),
            "full_text": ("prompt", np.array([text_of[each] for each in full], dtype=object)),
            "correct": ("prompt", np.array(data.correct_tokens)),
        },
        coords={"node": swept["node"].values, "prompt": swept["prompt"].values},
        attrs={"model": model.name, "ablation": ablation, "over": over, "seed": seed},
    )


def prediction_pruning(
    model: Model,
    data: Prompts,
    *,
    tolerance: float = 0.0,
    ablation: str = "mean",
    over: str = "position",
    seed: int = 0,
    memory_gib: float | None = None,
    progress: Progress | None = None,
) -> Circuit:
    """The nodes without which the model says something else: each ablated by itself, from the full model.

    A node's score is the share of prompts whose likeliest next token changes; it is kept when that is more than
    `tolerance`. Nodes that only matter together are not found so: for these, give `same_prediction` to a search
    that goes on from what it has removed. The circuit's metric is `top1`, accuracy.
    Raises as `ablate_nodes`, and InvalidArgument for a tolerance outside 0 to 1.
    """
    if not 0 <= tolerance <= 1:
        raise InvalidArgument(f"tolerance is a share of prompts, from 0 to 1; got {tolerance}")
    found = predictions_by_node(
        model, data, ablation=ablation, over=over, seed=seed, memory_gib=memory_gib, progress=progress
    )
    changed = found["changed"].mean("prompt")
    steps = tuple(
        Step(str(name), float(share), float(share) > tolerance)
        for name, share in zip(changed["node"].values, changed.values, strict=True)
    )
    return Circuit(
        nodes=tuple(step.name for step in steps if step.kept),
        edges=None,
        scores=xr.DataArray(
            changed.values.astype(np.float32),
            dims=("node",),
            coords={"node": [step.name for step in steps]},
        ),
        method="prediction-pruning",
        settings={"tolerance": tolerance, "ablation": ablation, "over": over, "seed": seed, "metric": "top1"},
        origin=Origin.of(model, data),
        steps=steps,
    )


def same_prediction(model: Model, data: Prompts, *, memory_gib: float | None = None) -> LogitsMetric:
    """A metric for searches on these prompts: 1 where the model says what it says in full, else 0.

    Its mean is the share of predictions that stay; with all nodes it is 1.
    """
    full = model.run(data.clean, keep=(), memory_gib=memory_gib).logits.argmax(-1)

    def same_prediction(
        logits: Float[Tensor, "row vocab"], rows: Int[Tensor, " row"]
    ) -> Float[Tensor, " row"]:
        return (logits.argmax(-1) == full[rows]).float()

    return same_prediction


def likeliest_token(logits: Float[Tensor, "row vocab"], rows: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
    """The likeliest next token's id as a metric: exact in float32 for vocabularies of up to 2^24 tokens."""
    return logits.argmax(-1).float()


def _likeliest(model: Model, logits: Float[Tensor, "prompt vocab"], top: int) -> list[tuple[Said, ...]]:
    found = torch.softmax(logits.float(), -1).topk(top)
    rows = []
    for probs, tokens in zip(found.values.tolist(), found.indices.tolist(), strict=True):
        texts = token_texts(model.tokenizer, tokens)
        rows.append(tuple(Said(*said) for said in zip(tokens, texts, probs, strict=True)))
    return rows


def _right(data: Prompts, number: int) -> Sequence[int]:
    """Next tokens that are right for one prompt."""
    return data.correct_sets[number] if data.correct_sets else (data.correct_tokens[number],)
