"""Which characters of a text each token stands for, whatever the tokenizer says about it.

Fast tokenizers report offsets; some report empty ones, and slow tokenizers report none. Then the ids are
decoded prefix by prefix, which shows where each token ends in the decoded text, and that text is aligned with
the original. Decoding single tokens would not do: one may hold half a character, or lose its leading space.
"""

from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import pairwise

from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]


def token_offsets(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[tuple[int, ...], tuple[Span, ...]]:
    """Ids of a text without added special tokens, and the half-open character range of each."""
    fast = bool(tokenizer.is_fast)
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=fast, verbose=False)
    ids = tuple(int(token) for token in encoding["input_ids"])
    if not fast:
        return ids, decoded_offsets(tokenizer, ids, text)
    given = tuple((int(start), int(stop)) for start, stop in encoding["offset_mapping"])
    if in_order(given, text) and covered(given, text) == n_visible(text):
        return ids, given
    decoded = decoded_offsets(tokenizer, ids, text)
    if in_order(given, text) and covered(given, text) >= covered(decoded, text):
        return ids, given
    return ids, decoded


def in_order(offsets: Sequence[Span], text: str) -> bool:
    """Whether ranges lie in the text and neither end ever moves back."""
    inside = all(0 <= start <= stop <= len(text) for start, stop in offsets)
    return inside and all(a[0] <= b[0] and a[1] <= b[1] for a, b in pairwise(offsets))


def covered(offsets: Sequence[Span], text: str) -> int:
    """Number of visible characters that some token stands for."""
    places = {place for start, stop in offsets for place in range(start, stop)}
    return sum(not text[place].isspace() for place in places)


def n_visible(text: str) -> int:
    """Number of characters that are not white space."""
    return sum(not character.isspace() for character in text)


def decoded_offsets(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], text: str) -> tuple[Span, ...]:
    """Character ranges by decoding, for a tokenizer without usable offsets; quadratic in their number."""
    prefixes = [
        str(tokenizer.decode(ids[:n], skip_special_tokens=False, clean_up_tokenization_spaces=False))
        for n in range(1, len(ids) + 1)
    ]
    decoded = prefixes[-1] if prefixes else ""
    ranges = []
    done = 0
    for prefix in prefixes:
        start, done = done, max(done, n_shared(prefix, decoded))
        half_character = len(prefix) > done
        ranges.append((start, min(done + half_character, len(decoded))))
    return aligned(ranges, decoded, text)


def n_shared(a: str, b: str) -> int:
    """Number of characters that two texts share at their beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def aligned(ranges: Sequence[Span], decoded: str, text: str) -> tuple[Span, ...]:
    """Ranges of the decoded text as ranges of the original.

    Where the two differ (an unknown character, other letter case), every token of the differing stretch
    stands for all of the original's stretch.
    """
    if decoded == text:
        return tuple(ranges)
    homes: list[Span] = []
    for kind, start, stop, text_start, text_stop in SequenceMatcher(
        None, decoded, text, autojunk=False
    ).get_opcodes():
        if kind == "equal":
            homes += [(text_start + i, text_start + i + 1) for i in range(stop - start)]
        else:
            homes += [(text_start, text_stop)] * (stop - start)
    homes.append((len(text), len(text)))
    return tuple(
        (homes[start][0], homes[stop - 1][1] if stop > start else homes[start][0]) for start, stop in ranges
    )
