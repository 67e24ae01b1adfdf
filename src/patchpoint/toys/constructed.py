"""A model whose circuit is known, with prompts of the task that it does."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from patchpoint.engine import Batch, Model
from patchpoint.engine.graph import Graph
from patchpoint.engine.sweep import base_values
from patchpoint.errors import InvalidArgument
from patchpoint.tasks.prompts import Prompts, header_of

from .blueprint import Blueprint

Edges = frozenset[tuple[str, str]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Constructed:
    """A model, prompts, and the parts by which what differs between a prompt and its twin reaches the answer.

    The model gives the correct answer on every clean prompt and the incorrect one on its twin. An edge that
    carries the same for both, such as one that tells a head where a token stands, is no true edge: no exchange
    of activations between the twins can show it.
    """

    name: str
    model: Model
    prompts: Prompts
    nodes: frozenset[str]
    """True heads `0.1` and MLPs `mlp 2`."""
    paths: tuple[Edges, ...]
    """Sets of edges (sender, port) of which each alone does the whole task; several: they are redundant."""

    def __post_init__(self) -> None:
        graph = Graph.of(self.model)
        for edge in self.edges:
            graph.number(edge)
        loose = self.nodes - _ends(self.edges)
        if loose:
            raise InvalidArgument(
                f"true nodes {sorted(loose)} of {self.name} are on no true edge; name their edges"
            )
        sides = (
            (self.prompts.clean, self.prompts.correct_tokens),
            (self.prompts.corrupt, self.prompts.incorrect_tokens),
        )
        right = [_n_right(self.model, batch, answers) for batch, answers in sides]
        if min(right) < len(self.prompts):
            raise InvalidArgument(
                f"this {self.name} model answers {right[0]} of {len(self.prompts)} clean prompts and {right[1]} "
                "twins as it should, so its circuit does not do the task; give less noise (at most 0.05) or "
                "another seed"
            )

    @property
    def edges(self) -> Edges:
        """All true edges, of every path."""
        return frozenset[tuple[str, str]]().union(*self.paths)


def _ends(edges: Edges) -> frozenset[str]:
    """Senders, and the nodes whose ports are read."""
    return frozenset(end for sender, port in edges for end in (sender, port, port.rpartition(".")[0]))


def _n_right(model: Model, batch: Batch, answers: tuple[int, ...]) -> int:
    return int(base_values(model.run(Batch(batch.tokens, answers)), "top1").sum())


Example = tuple[Sequence[str], Sequence[str], str, str]
"""Words of a prompt and of its twin, the correct answer and the incorrect one."""


def construct(
    name: str,
    blueprint: Blueprint,
    paths: tuple[Edges, ...],
    example: Callable[[np.random.Generator], Example],
    *,
    n_prompts: int,
    noise: float,
    seed: int,
) -> Constructed:
    """A blueprint's model, with prompts that `example` draws; all that is random comes from the seed.

    Raises InvalidArgument.
    """
    for what, value, least in (("n_prompts", n_prompts, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InvalidArgument(f"{what} is a whole number of at least {least}, got {value!r}; give one")
    model = blueprint.build(f"constructed-{name}", noise, seed)
    generator = np.random.default_rng(seed)
    prompts = _prompts(model, name, seed, [example(generator) for _ in range(n_prompts)])
    return Constructed(name=name, model=model, prompts=prompts, nodes=blueprint.nodes, paths=paths)


def _prompts(model: Model, task: str, seed: int, examples: Sequence[Example]) -> Prompts:
    clean, corrupt, correct, incorrect = zip(*examples, strict=True)
    made = Prompts.from_pairs(
        model,
        [" ".join(words) for words in clean],
        [" ".join(words) for words in corrupt],
        [f" {word}" for word in correct],
        [f" {word}" for word in incorrect],
    )
    header = header_of(model, task, bos=None, corruption="twin", seed=seed)
    return dataclasses.replace(made, header=header)
