"""What a task is: a name, a question, and a stream of cases."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from patchpoint.engine import Model
from patchpoint.errors import UnknownName

from .case import Case
from .generation import N_PROMPTS, Progress, generate
from .lexicon import Lexicon
from .prompts import Prompts
from .resampling import RESAMPLED
from .screening import RATIO

Cases = Callable[[Lexicon, str, Random], Iterator[Case]]
"""Cases for a tokenizer under one of the task's own corruptions; endless, or ending when there are no more."""


@dataclass(frozen=True)
class Task:
    """A kind of prompts with known answers.

    `question`: what a model must do, in one line. `source`: the paper or study. `corruptions`: its own ways to
    make a twin, the default first; `resampled` (another prompt of the task) comes in addition.
    """

    name: str
    question: str
    source: str
    corruptions: tuple[str, ...]
    cases: Cases

    def corruption(self, name: str | None) -> str:
        """The corruption of this name, or the default; UnknownName."""
        known = (*self.corruptions, RESAMPLED)
        if name is None:
            return known[0]
        if name not in known:
            raise UnknownName(f"corruption of {self.name}", name, known)
        return name

    def generate(
        self,
        model: Model,
        n: int = N_PROMPTS,
        seed: int = 0,
        *,
        corruption: str | None = None,
        ratio: float = RATIO,
        screen: bool = True,
        bos: bool | None = None,
        candidates: int | None = None,
        on_block: Progress | None = None,
    ) -> Prompts:
        """`n` prompts of one token length that the model answers, balanced over the task's groups.

        A prompt is kept when the model's most likely next token is correct and more than `ratio` times as likely
        as the incorrect answer; `screen=False` keeps every prompt. `corruption`: how twins are made (default: the
        task's first). `bos`: put the BOS token first; None: the tokenizer's own habit. `candidates`: most prompts
        the model looks at (default: 16 for each one asked). `on_block` hears (accepted, seen, most).
        `.report` of the result tells what was dropped and why. The same arguments give the same prompts.
        Raises TaskError, with the figures, where there are too few; InvalidArgument, UnknownName.
        """
        return generate(
            self,
            model,
            n,
            seed,
            corruption=corruption,
            ratio=ratio,
            screen=screen,
            bos=bos,
            candidates=candidates,
            on_block=on_block,
        )
