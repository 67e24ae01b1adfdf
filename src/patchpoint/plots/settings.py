"""How a trace was made, in the words that pictures use."""

from collections.abc import Collection
from typing import Protocol

import numpy as np

from patchpoint.errors import InvalidArgument, UnknownName

from .labels import prose

STATES = {"resid": "residual stream", "mlp": "MLP output", "attn": "attention output"}
DIRECTIONS = {"restore": "restored", "corrupt": "corrupted"}
METRICS = {"prob": "p({})", "logprob": "log p({})", "logit": "logit({})", "logit_diff": "logit difference"}


class Settings(Protocol):
    """What traces and averages alike say about how they were made."""

    @property
    def model(self) -> str:
        """Name of the model."""

    @property
    def noise(self) -> str:
        """Noise in words, e.g. ``s3 (std 0.094)``."""

    @property
    def samples(self) -> int:
        """Corruptions averaged per prompt."""

    @property
    def seed(self) -> int:
        """Seed of every draw."""

    @property
    def state(self) -> str:
        """Patched state: ``resid``, ``mlp`` or ``attn``."""

    @property
    def window(self) -> int:
        """Layers patched together when the state is ``mlp`` or ``attn``."""

    @property
    def direction(self) -> str:
        """``restore`` (clean state into the corrupted run) or ``corrupt`` (the reverse)."""

    @property
    def metric(self) -> str:
        """``prob``, ``logprob``, ``logit`` or ``logit_diff``."""


def patched(settings: Settings) -> str:
    """The intervention in words, e.g. ``MLP output of a window of 10 layers restored``."""
    name = STATES[settings.state]
    width = f" of a window of {settings.window} layers" if windowed(settings) else ""
    return f"{name}{width} {DIRECTIONS[settings.direction]}"


def windowed(settings: Settings) -> bool:
    """Whether several layers are patched together: never for the residual stream."""
    return settings.state != "resid" and settings.window > 1


def how(settings: Settings) -> str:
    """Noise, samples and seed in words."""
    plural = "" if settings.samples == 1 else "s"
    return f"Noise {prose(settings.noise)}, {settings.samples} sample{plural}, seed {settings.seed}"


def check_settings(settings: Settings) -> None:
    """Raise UnknownName for a state, direction or metric, InvalidArgument for samples or window."""
    tables: tuple[tuple[str, str, Collection[str]], ...] = (
        ("state", settings.state, STATES),
        ("direction", settings.direction, DIRECTIONS),
        ("metric", settings.metric, METRICS),
    )
    for kind, name, known in tables:
        if name not in known:
            raise UnknownName(kind, name, known)
    for kind, number in (("samples", settings.samples), ("window", settings.window)):
        if not isinstance(number, (int, np.integer)) or number < 1:
            raise InvalidArgument(f"{kind} is {number!r}, expected a whole number from 1")
