"""One prompt of a task before any tokenizer or model has seen it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from .template import Template

Value = str | int | float


@dataclass(frozen=True, kw_only=True)
class Case:
    """A template with its clean and its corrupted values, and how each answer follows the clean text.

    `correct` and `incorrect` are exact continuations, leading space included where there is one. Further
    continuations that are right or wrong as well (any later year, any earlier one) are in `also_correct` and
    `also_incorrect`. Accepted prompts are balanced over `group`; `metadata` goes into the prompts' files. `number`:
    which draw it is, rising, for tasks whose cases of one number belong together; None: the next one.
    """

    template: Template
    clean: Mapping[str, str]
    corrupt: Mapping[str, str]
    correct: str
    incorrect: str
    group: str = ""
    also_correct: tuple[str, ...] = ()
    also_incorrect: tuple[str, ...] = ()
    metadata: Mapping[str, Value] = field(default_factory=dict)
    number: int | None = None

    def __post_init__(self) -> None:
        assert self.correct != self.incorrect
        assert set(self.template.slots) <= set(self.clean)
        assert set(self.template.slots) <= set(self.corrupt)
