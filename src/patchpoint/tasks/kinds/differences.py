"""Where two texts differ, word by word, as a template that makes both."""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise, takewhile

from patchpoint.tasks.template import Template

PLACE = "difference"


def differing(clean: str, corrupt: str) -> tuple[Template, dict[str, str], dict[str, str]]:
    """The template of two different texts, and what its slots hold in the one and in the other.

    A run of words in which they differ is a slot: `difference`, `difference2`, ... Texts of unequal numbers of words
    have one run, all between the words that they share at both ends.
    """
    mine, others = (re.findall(r"\s*\S+(?:\s+$)?", text) for text in (clean, corrupt))
    runs = _word_by_word if len(mine) == len(others) else _between_ends
    text = ""
    values: dict[str, str] = {}
    twins: dict[str, str] = {}
    for before, after in runs(mine, others):
        if before == after:
            text += before.replace("{", "{{").replace("}", "}}")
            continue
        n_shared = _n_shared(_space(before), _space(after))
        slot = f"{PLACE}{len(values) + 1}" if values else PLACE
        text += f"{before[:n_shared]}{{{slot}}}"
        values[slot], twins[slot] = before[n_shared:], after[n_shared:]
    return Template("pair", text), values, twins


def _word_by_word(mine: Sequence[str], others: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Runs of words that are all the same or all different, as they stand in both texts."""
    start = 0
    same = [a == b for a, b in zip(mine, others, strict=True)]
    for stop in range(1, len(same) + 1):
        if stop == len(same) or same[stop] != same[start]:
            yield "".join(mine[start:stop]), "".join(others[start:stop])
            start = stop


def _between_ends(mine: Sequence[str], others: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What both begin with, what differs, what both end with; the middle has a word on either side."""
    shorter = min(len(mine), len(others))
    first = _n_shared(mine, others)
    last = min(_n_shared(mine[::-1], others[::-1]), shorter - first)
    if first + last == shorter:
        first, last = (first - 1, last) if first else (first, last - 1)
    cuts = [(0, 0), (first, first), (len(mine) - last, len(others) - last), (len(mine), len(others))]
    for (start, start_other), (stop, stop_other) in pairwise(cuts):
        if stop > start:
            yield "".join(mine[start:stop]), "".join(others[start_other:stop_other])


def _n_shared(mine: Sequence[str], others: Sequence[str]) -> int:
    """How many items two lists, or characters two texts, begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(mine, others, strict=False)))


def _space(text: str) -> str:
    return text[: len(text) - len(text.lstrip())]
