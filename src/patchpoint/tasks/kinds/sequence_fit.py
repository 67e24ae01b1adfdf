"""Which windows of a sequence a tokenizer writes with the same numbers of tokens, slot by slot."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from patchpoint.tasks.lexicon import Lexicon
from patchpoint.tasks.template import Template

from .orders import Progression, Window

LONGEST = 24
"""Tokens of the longest member that is looked for."""
Place = tuple[Template, str]


@dataclass(frozen=True)
class Fit:
    """Windows whose shown members take as many tokens per slot as in most windows, and all such members per slot."""

    windows: frozenset[Window]
    pools: tuple[tuple[int, ...], ...]


def fit(lexicon: Lexicon, progression: Progression, templates: Sequence[Template]) -> Fit | None:
    """The windows that fit together in these templates; None where no window can be written.

    Prompts of one call have one token length, so of the patterns of token counts (2 2 2 2 for "1 2 3 4", 2 2 2 3
    for "7 8 9 10") the one of most windows is taken. Answers may be of any length.
    """
    slots = [f"S{i}" for i in range(1, progression.n_shown + 1)]
    places = [[(template, slot) for template in templates] for slot in slots]
    words = progression.words(progression.values)
    lengths = [_lengths(lexicon, words, place) for place in places]
    patterns = {window: _pattern(progression.words(window[:-1]), lengths) for window in progression.windows}
    counts = Counter(pattern for pattern in patterns.values() if 0 not in pattern)
    if not counts:
        return None
    common = max(counts, key=lambda pattern: (counts[pattern], -sum(pattern)))
    for n_tokens in sorted(set(common)):
        mine = [place for n, slot in zip(common, places, strict=True) if n == n_tokens for place in slot]
        lexicon.fitting(progression.vocabulary.name, words, mine, n_tokens=n_tokens)
    return Fit(
        frozenset(window for window, pattern in patterns.items() if pattern == common),
        tuple(
            tuple(value for value in progression.values if counted.get(progression.word(value)) == n_tokens)
            for n_tokens, counted in zip(common, lengths, strict=True)
        ),
    )


def _pattern(words: tuple[str, ...], lengths: Sequence[dict[str, int]]) -> tuple[int, ...]:
    """Tokens per slot, 0 for a member that has none of its own there."""
    return tuple(counted.get(word, 0) for word, counted in zip(words, lengths, strict=True))


def _lengths(lexicon: Lexicon, words: Sequence[str], places: Sequence[Place]) -> dict[str, int]:
    """Tokens of each word at all of these places; words whose number differs between them are left out."""
    # What is tried here is no list of words that a report should tell of.
    trial, lengths = replace(lexicon, fillers=[]), {}
    for n_tokens in range(1, LONGEST + 1):
        left = [word for word in words if word not in lengths]
        if not left:
            break
        lengths.update(dict.fromkeys(trial.fitting("members", left, places, n_tokens=n_tokens), n_tokens))
    return lengths
