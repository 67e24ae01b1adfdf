"""Pairs of clean and corrupted prompts for tests, as token ids."""

from patchpoint.engine import Batch
from patchpoint.tasks.prompts import Prompts

RAGGED = (
    ((5, 9, 13, 2, 44, 7), (5, 19, 14, 3, 45, 8)),
    ((11, 3, 60, 8), (11, 3, 61, 8)),
    ((7, 7, 1, 90, 12, 4), (7, 8, 2, 91, 12, 5)),
)
"""First differences at tokens 1, 2 and 1."""
SAME_LENGTH = (
    ((5, 9, 13, 2, 44), (5, 9, 14, 3, 45)),
    ((11, 3, 60, 8, 70), (11, 4, 61, 8, 71)),
    ((7, 7, 1, 90, 12), (7, 8, 1, 90, 13)),
)


def made_prompts(pairs, first=0):
    """Prompts of these pairs, with answers that differ from prompt to prompt, counted from `first`."""
    clean, corrupt = (tuple(side) for side in zip(*pairs, strict=True))
    correct = tuple(20 + 3 * i for i in range(first, first + len(pairs)))
    incorrect = tuple(60 + 5 * i for i in range(first, first + len(pairs)))
    spans = tuple({"changed": (1, len(ids)), "name": (len(ids) - 2, len(ids) - 1)} for ids in clean)
    texts = [tuple(" ".join(f"w{i}" for i in ids) for ids in side) for side in (clean, corrupt)]
    return Prompts(
        *texts,
        Batch(clean, correct, incorrect),
        Batch(corrupt, correct, incorrect),
        correct,
        incorrect,
        spans,
    )
