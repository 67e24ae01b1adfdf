"""Traces of made-up numbers with the shape of real ones: an early site, a late site, some negatives."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from patchpoint.plots import About, RolePicture, TracePicture
from patchpoint.tracing.grid import Grid

TOWER = ("The", " E", "iff", "el", " Tower", " is", " in", " the", " city", " of")


def effects(rows: int, layers: int) -> np.ndarray:
    layer = np.arange(layers)
    values = np.random.default_rng(0).normal(0, 0.006, (rows, layers))
    values[min(4, rows - 1)] += 0.25 * np.exp(-(((layer - layers / 4) / (layers / 7)) ** 2))
    values[-1] += 0.5 / (1 + np.exp(-(layer - 0.75 * layers)))
    values[0, 0] = -0.1
    return values


@pytest.fixture
def trace_picture() -> Callable[..., TracePicture]:
    def make(
        tokens: tuple[str, ...] = TOWER, layers: int | tuple[int | str, ...] = 30, **changes: Any
    ) -> TracePicture:
        labels = tuple(range(layers)) if isinstance(layers, int) else layers
        fields: dict[str, Any] = {
            "values": effects(len(tokens), len(labels)) if tokens and labels else [],
            "tokens": tokens,
            "layers": labels,
            "model": "smollm2-135m",
            "prompt": "".join(map(str, tokens)),
            "answer": " Paris",
            "noise": "s3 (std 0.112)",
            "samples": 10,
            "seed": 7,
            "p_clean": 0.662,
            "p_corrupt": 0.0123,
            "subject_span": (0, min(5, len(tokens))),
        }
        return TracePicture(**(fields | changes))

    return make


@pytest.fixture
def role_picture() -> Callable[..., RolePicture]:
    def make(**changes: Any) -> RolePicture:
        mean = effects(6, 30)
        std = np.abs(mean) * 1.6
        mean[1] = std[1] = std[3] = np.nan
        fields: dict[str, Any] = {
            "mean": mean,
            "std": std,
            "count": np.array([100, 0, 84, 1, 1234, 100]),
            "layers": tuple(range(30)),
            "model": "smollm2-135m",
            "prompts": "100 facts of facts.json",
            "noise": "s3 (std 0.112)",
            "samples": 10,
            "seed": 7,
        }
        return RolePicture(**(fields | changes))

    return make


@pytest.fixture
def grid() -> Callable[..., Grid]:
    def make(tokens: tuple[str, ...] = TOWER, layers: int = 12, **changes: Any) -> Grid:
        values = effects(len(tokens), layers)
        fields: dict[str, Any] = {
            "number": 12,
            "prompt": "".join(tokens),
            "subject": "The Eiffel Tower",
            "answer": " Paris",
            "tokens": tokens,
            "subject_span": (0, min(5, len(tokens))),
            "p_clean": 0.662,
            "p_corrupt": 0.0123,
            "direction": "restore",
            "effect": values,
            "effect_se": np.full(values.shape, 0.01),
            "exact": np.ones(values.shape, dtype=bool),
        }
        return Grid(**(fields | changes))

    return make


@pytest.fixture
def about() -> Callable[..., About]:
    def make(**changes: Any) -> About:
        fields: dict[str, Any] = {
            "model": "smollm2-135m",
            "condition": "gaussian",
            "facts": 1234,
            "noise": "s3 (std 0.112)",
            "samples": 10,
            "seed": 7,
        }
        return About(**(fields | changes))

    return make
