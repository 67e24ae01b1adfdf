"""A circuit by itself on prompts, beside the full model and the empty circuit."""

from typing import TYPE_CHECKING

from patchpoint.engine import Model
from patchpoint.tasks.prompts import Prompts

from .evaluation import Evaluation
from .exchange import Metric
from .kept import kept_values

if TYPE_CHECKING:
    from .circuit import Circuit


def evaluate(
    circuit: "Circuit",
    model: Model,
    data: Prompts,
    *,
    metric: Metric | None = None,
    memory_gib: float | None = None,
) -> Evaluation:
    """The circuit alone on prompts of its task, everything else ablated as in the search.

    `metric`: default that of the search. Raises ResultsError for another model or task.
    """
    circuit.check(model)
    circuit.check_data(data)
    return evaluated_on(circuit, model, data, metric=metric, memory_gib=memory_gib)


def evaluated_on(
    circuit: "Circuit",
    model: Model,
    data: Prompts,
    *,
    metric: Metric | None = None,
    memory_gib: float | None = None,
) -> Evaluation:
    """As `evaluate`, on prompts of any task."""
    kept = circuit.nodes if circuit.edges is None else circuit.edges
    full, values = kept_values(circuit, model, data, [kept, ()], metric=metric, memory_gib=memory_gib)
    return Evaluation(full, values[0], values[1])
