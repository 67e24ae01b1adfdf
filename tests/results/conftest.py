"""A made-up run: its record, and rows that depend on the fact number alone."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from patchpoint.results import RunRecord, Store, grid_rows, new_record

N_FACTS, N_TOKENS, N_LAYERS = 6, 5, 3
TABLES = ("effects.parquet", "facts.parquet")


def make_record(**changes: object) -> RunRecord:
    given: dict = {
        "command": "experiment gaussian",
        "arguments": {"samples": 10, "noise": "s3", "metric": "prob"},
        "seed": 0,
        "model": "tiny",
        "model_fingerprint": "model-a",
        "tokenizer_fingerprint": "tokenizer-a",
        "facts_sha256": "facts-a",
        "device": "cpu",
        "dtype": "float32",
    }
    return new_record(**{**given, **changes})


def make_row(fact: int) -> dict[str, object]:
    if fact % 5 == 4:
        return {"fact": fact, "status": "skipped", "prompt": "a b", "reason": "predicted another"}
    if fact % 5 == 0:
        return {"fact": fact, "status": "malformed", "reason": "subject is missing"}
    return {
        "fact": fact,
        "prompt": f"The tower {fact} is in",
        "subject": f"tower {fact}",
        "attribute": "Paris",
        "answer": " Paris",
        "answer_id": 7,
        "tokens": ["The", " tower", f" {fact}", " is", " in"],
        "token_ids": [1, 2, 100 + fact, 4, 5],
        "subject_start": 1,
        "subject_stop": 3,
        "p_clean": 0.9,
        "p_corrupt": 0.1 + fact / 1e4,
        "noise_std": 0.3,
        "status": "traced",
    }


def make_grid(fact: int) -> np.ndarray:
    """Effect, standard error and p_restored, shape (3, token, layer)."""
    return np.random.default_rng(fact).random((3, N_TOKENS, N_LAYERS), dtype=np.float32)


def make_effects(fact: int) -> list[dict[str, object]]:
    return grid_rows(*make_grid(fact)) if make_row(fact)["status"] == "traced" else []


@pytest.fixture
def record() -> Callable[..., RunRecord]:
    return make_record


@pytest.fixture
def row() -> Callable[[int], dict[str, object]]:
    return make_row


@pytest.fixture
def grid() -> Callable[[int], np.ndarray]:
    return make_grid


@pytest.fixture
def effects() -> Callable[[int], list[dict[str, object]]]:
    return make_effects


@pytest.fixture
def write() -> Callable[..., None]:
    """Write some facts in some order and finish, or not."""

    def run(
        folder: Path, facts: Iterable[int] = range(1, N_FACTS + 1), *, finish: bool = True, **changes: object
    ) -> None:
        with Store.create_or_resume(folder, make_record(**changes)) as store:
            for fact in facts:
                if fact not in store.statuses():
                    store.write(make_row(fact), make_effects(fact))
            if finish:
                store.finish()

    return run


@pytest.fixture
def tables() -> Callable[[Path], list[bytes]]:
    """The bytes of a finished run's two tables."""
    return lambda folder: [(folder / name).read_bytes() for name in TABLES]


@pytest.fixture
def whole(tmp_path, write, tables) -> list[bytes]:
    """The bytes of the two tables of an unbroken run."""
    write(tmp_path / "whole")
    return tables(tmp_path / "whole")


@pytest.fixture
def resumed() -> Callable[[Path], set[int]]:
    """The facts that a continued run finds on disk."""

    def facts(folder: Path) -> set[int]:
        with Store.create_or_resume(folder, make_record()) as store:
            return set(store.statuses())

    return facts
