"""Foreign results made into a run like any other, so that everything that reads runs reads them."""

from dataclasses import asdict, dataclass

import numpy as np

from patchpoint.engine.metrics import metric_of
from patchpoint.errors import InvalidArgument, UnknownName
from patchpoint.tracing.exchange import STATES
from patchpoint.tracing.trace import DIRECTIONS

from .foreign import ForeignFact, ForeignFile, is_text
from .provenance import RunRecord, new_record
from .schema import grid_rows
from .store import Store

IMPORTED = "imported"
"""What stands where a run names what it was made with, and a foreign file does not say."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """How foreign results were made, as far as their owner says; the fields are those of `trace`.

    `noise` is any text. Raises UnknownName or InvalidArgument for other values that `trace` would refuse.
    """

    model: str = IMPORTED
    state: str = "resid"
    window: int = 1
    direction: str = "restore"
    metric: str = "prob"
    noise: str = "not given"
    samples: int = 1
    transposed: bool = False

    def __post_init__(self) -> None:
        for kind, name, known in (("state", self.state, STATES), ("direction", self.direction, DIRECTIONS)):
            if name not in known:
                raise UnknownName(kind, name, known)
        metric_of(self.metric)
        for kind, number in (("samples", self.samples), ("window", self.window)):
            if number < 1:
                raise InvalidArgument(f"{kind} must be at least 1, got {number}")
        for kind, text in (("model", self.model), ("noise", self.noise)):
            if not text.strip() or not is_text(text):
                raise InvalidArgument(f"{kind} {text!a} is no text; give some, or leave it out")


def record_of_import(file: ForeignFile, origin: Origin) -> RunRecord:
    """What identifies an imported run in `run.json`."""
    # The seed is not known; pictures and tables ask for one among the arguments.
    arguments = {**asdict(origin), "seed": 0}
    return new_record(
        "import",
        arguments,
        seed=0,
        model=origin.model,
        model_fingerprint=IMPORTED,
        tokenizer_fingerprint=IMPORTED,
        facts_sha256=file.sha256,
        device=IMPORTED,
        dtype=IMPORTED,
    )


def import_facts(file: ForeignFile, store: Store) -> None:
    """Write the facts that `store` does not hold yet, and finish it. Raises ResultsError."""
    done = store.statuses()
    direction = str(store.record.arguments["direction"])
    for fact in file.facts:
        if fact.number not in done:
            store.write(_row(fact), _effects(fact, direction))
    store.finish()


def _row(fact: ForeignFact) -> dict[str, object]:
    start, stop = fact.span
    return {
        "fact": fact.number,
        "prompt": "".join(fact.tokens) if fact.prompt is None else fact.prompt,
        "subject": "".join(fact.tokens[start:stop]).strip(),
        "answer": fact.answer,
        "tokens": list(fact.tokens),
        "subject_start": start,
        "subject_stop": stop,
        "p_clean": fact.p_clean,
        "p_corrupt": fact.p_corrupt,
        "status": "traced",
    }


def _effects(fact: ForeignFact, direction: str) -> list[dict[str, object]]:
    unpatched = {"restore": fact.p_corrupt, "corrupt": fact.p_clean}[direction]
    restored = fact.effect + (np.nan if unpatched is None else unpatched)
    return grid_rows(fact.effect, np.full(fact.effect.shape, np.nan), restored)
