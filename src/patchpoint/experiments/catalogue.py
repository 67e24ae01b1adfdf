"""The named experiments of causal tracing."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from patchpoint.errors import UnknownName

from .basic import (
    fresh_noise,
    gaussian,
    random_embedding,
    reverse,
    rome,
    severed,
    shuffle,
    token_swap,
    wrong_direction,
)
from .calibrate import calibrate
from .compare import compare_models, short_long
from .levels import vary_noise
from .prefixes import fact_position, prefix
from .repeat import repeat
from .result import Result

ROME = "Meng et al. 2022"
STUDY = "follow-up study of causal tracing"


@dataclass(frozen=True)
class Experiment:
    """A named experiment: its function, what it asks, where it comes from, and the settings that it fixes itself."""

    run: Callable[..., Result]
    question: str
    source: str
    fixes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The function's name as it is written on the command line."""
        return self.run.__name__.replace("_", "-")

    @property
    def options(self) -> tuple[str, ...]:
        """What the function takes beside model, facts, settings and work."""
        given = ("model", "facts", "settings", "work")
        return tuple(name for name in inspect.signature(self.run).parameters if name not in given)


_ALL = (
    Experiment(
        gaussian,
        "Which clean state, restored into the run with a noised subject, brings the answer back?",
        f"{ROME}, section 2",
        ("direction",),
    ),
    Experiment(
        reverse,
        "Which noised state, put into the clean run, takes the answer away?",
        STUDY,
        ("direction",),
    ),
    Experiment(
        wrong_direction,
        "In what share of facts does exchanging a state do the opposite of what is expected?",
        STUDY,
        ("direction",),
    ),
    Experiment(
        vary_noise,
        "How do the effects, and the corrupted probability, change with the size of the noise?",
        STUDY,
        ("noise",),
    ),
    Experiment(
        random_embedding,
        "Does the pattern remain when the subject's embeddings are replaced by noise?",
        STUDY,
    ),
    Experiment(
        shuffle,
        "Does the pattern remain when the subject's embeddings are permuted among themselves?",
        STUDY,
        ("noise", "fresh_noise"),
    ),
    Experiment(
        prefix,
        "Which states carry the effect of true or false sentences in front of the prompt?",
        STUDY,
        ("noise", "direction", "samples", "fresh_noise"),
    ),
    Experiment(
        fact_position,
        "How does the effect of a sentence in front depend on its position among others?",
        STUDY,
        ("noise", "direction", "samples", "fresh_noise"),
    ),
    Experiment(
        repeat,
        "How much of a single prompt's effects is the noise that was drawn?",
        STUDY,
        ("samples",),
    ),
    Experiment(
        fresh_noise,
        "Does it matter that every site is measured under the same noise?",
        STUDY,
        ("direction", "method"),
    ),
    Experiment(
        rome,
        "The states, MLP and attention windows of single prompts, as the paper's figures have them.",
        f"{ROME}, figure 1",
        ("state",),
    ),
    Experiment(
        severed,
        "How much of a state's effect passes through the MLPs, or the attention, of later layers?",
        f"{ROME}, section 2.2 and figure 3",
        ("direction", "state", "method"),
    ),
    Experiment(
        calibrate,
        "Which noise level leaves a wanted share of the clean probability?",
        f"after {ROME}, appendix B",
        ("direction", "state", "noise", "method"),
    ),
    Experiment(
        token_swap,
        "Which states tell the subject from another one of as many tokens?",
        "Zhang and Nanda 2024, section 2 (symmetric token replacement)",
        ("noise", "fresh_noise"),
    ),
    Experiment(
        compare_models,
        "Where do two models keep the same facts?",
        STUDY,
    ),
    Experiment(
        short_long,
        "Do the facts with the fewest tokens show another pattern than those with the most?",
        STUDY,
    ),
)
EXPERIMENTS: dict[str, Experiment] = {experiment.name: experiment for experiment in _ALL}


def experiment_named(name: str) -> Experiment:
    """The experiment of that name. Raises UnknownName with the nearest ones."""
    if name not in EXPERIMENTS:
        raise UnknownName("experiment", name, EXPERIMENTS)
    return EXPERIMENTS[name]
