"""Broken twins of a window: members in the same places that are no sequence."""

from collections.abc import Callable, Mapping
from itertools import product
from random import Random

from .orders import Progression, Window

Pools = tuple[tuple[int, ...], ...]
"""Per slot the values whose members the tokenizer writes with the slot's number of tokens."""
SHUFFLES = 1000
"""Orders that are tried; of three members half break the sequence, of more most do."""
Twin = Callable[[Progression, Pools, Window, Random], Window | None]
"""Values for the slots instead of those of a window, or None where there are none."""


def random_members(progression: Progression, pools: Pools, window: Window, draw: Random) -> Window | None:
    """Members drawn anew, each uniform over those of its slot, the last not the successor of those before it.

    The values that decide it are redrawn together until they do not continue: two of them, three for an order that
    reads two. Lan et al. 2024, section 3.
    """
    decisive = progression.order.reads + 1
    if not _can_break(progression, pools[-decisive:]):
        return None
    values = tuple(draw.choice(pool) for pool in pools)
    while progression.continues(values):
        values = (*values[:-decisive], *(draw.choice(pool) for pool in pools[-decisive:]))
    return values


def swapped_members(progression: Progression, pools: Pools, window: Window, draw: Random) -> Window | None:
    """The same members in another order that neither continues nor is the sequence backwards."""
    shown = window[:-1]
    for _ in range(SHUFFLES):
        values = tuple(draw.sample(shown, len(shown)))
        if (
            values != shown[::-1]
            and not progression.continues(values)
            and all(value in pool for value, pool in zip(values, pools, strict=True))
        ):
            return values
    return None


def _can_break(progression: Progression, pools: Pools) -> bool:
    return any(not progression.continues(values) for values in product(*pools))


TWINS: Mapping[str, Twin] = {"random": random_members, "swapped": swapped_members}
"""Corruption -> how its twins are made, the default first."""
