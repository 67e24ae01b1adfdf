"""Colours of circuits: one circuit by the sign of its scores, several by which of them have a part."""

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from .strokes import HUES

PLAIN, FAINT = "#666666", "#c9c9c9"
ALL_FILL, ALL_LINE, SOME_FILL, SOME_LINE = "#ededf2", "#000000", "#ffffff", "#808080"
RAISES, LOWERS, UNSCORED = "#b2182b", "#2166ac", "#777777"
THICK = 2.4

# The colours of the drawings of Lan et al. 2024 (arXiv 2311.04131), lines darkened where they were hard to see.
TASKS = ("numerals", "numwords", "months")
STUDY = {
    (0,): ("#ffcccb", "#d62728"),
    (1,): ("#add8e6", "#1f5fbf"),
    (2,): ("#fddc5c", "#b8900f"),
    (0, 1): ("#d8bfd8", "#8e24aa"),
    (1, 2): ("#90ee90", "#2e9d4f"),
    (0, 2): ("#ffd580", "#ef7d00"),
    (0, 1, 2): (ALL_FILL, ALL_LINE),
}


@dataclass(frozen=True)
class Look:
    """How parts of some circuits are drawn: fill of nodes, line of edges and outlines, outline width in points."""

    fill: str
    line: str
    label: str
    outline: float = 1.0


def look(members: tuple[int, ...], labels: Sequence[str]) -> Look:
    """The look of what these of the circuits have, by their numbers; `labels` are the circuits' names."""
    total, n = len(labels), len(members)
    everywhere = n == total > 1
    text = f"all {total}" if everywhere and total > 2 else " and ".join(labels[member] for member in members)
    if total <= len(TASKS) and not (everywhere and total == 2):
        fill, line = STUDY[tuple(sorted(_slots(labels)[member] for member in members))]
        return Look(fill, line, text, THICK if everywhere else 1.0)
    if everywhere:
        return Look(ALL_FILL, ALL_LINE, text, THICK)
    if n == 1:
        line = HUES[:-1][members[0] % (len(HUES) - 1)]
        return Look(_light(line), line, text)
    return Look(SOME_FILL, SOME_LINE, f"{n} of {total}", 1.0 + 0.3 * n)


def letters(members: tuple[int, ...], total: int) -> str:
    """Letters that say without colour which circuits have a part; nothing where there is only one circuit."""
    return "" if total == 1 else "".join(ascii_uppercase[member] for member in members)


def sign_line(share: float) -> str:
    """The colour of a score by its sign."""
    return UNSCORED if share != share else RAISES if share >= 0 else LOWERS


def dashed(share: float) -> bool:
    """Whether a score is drawn dashed: it lowers the metric."""
    return share < 0


def _slots(labels: Sequence[str]) -> tuple[int, ...]:
    """Places in the study's palette: its own tasks keep theirs."""
    if all(label in TASKS for label in labels):
        return tuple(TASKS.index(label) for label in labels)
    return tuple(range(len(labels)))


def _light(colour: str) -> str:
    """A colour two thirds of the way to white."""
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{(part + 2 * 255) // 3:02x}" for part in parts)
