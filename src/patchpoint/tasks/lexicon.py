"""Which words a tokenizer writes with the wanted number of tokens where they stand."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from patchpoint.models.tokens import encode

from .template import Template

CONTEXT = 16
"""Characters of a template that are kept next to a word: no tokenizer joins more than that across words."""


@dataclass(frozen=True)
class Fillers:
    """How many of a list of words fit, and what number of tokens was wanted."""

    what: str
    kept: int
    given: int
    n_tokens: int
    dropped: tuple[str, ...]

    def __str__(self) -> str:
        tokens = "one token" if self.n_tokens == 1 else f"{self.n_tokens} tokens"
        return f"{self.what}: {self.kept} of {self.given} take {tokens} where they stand"


@dataclass(frozen=True)
class Lexicon:
    """A tokenizer's view of words; what it dropped is told in `fillers`, one entry per list of words."""

    tokenizer: PreTrainedTokenizerBase
    fillers: list[Fillers] = field(default_factory=list)

    def fitting(
        self,
        what: str,
        words: Iterable[str],
        places: Iterable[tuple[Template, str]],
        *,
        n_tokens: int | None = 1,
    ) -> tuple[str, ...]:
        """The words that take `n_tokens` tokens at each of these places: (template, slot).

        None: the number that most of the words take at the first place. A word whose token also covers text
        next to it, other than a space before it, does not fit.
        """
        given = tuple(dict.fromkeys(words))
        contexts = list(dict.fromkeys(template.around(slot) for template, slot in places))
        if n_tokens is None:
            counts = Counter(self._n_tokens(word, *contexts[0]) for word in given)
            n_tokens = next((n for n, _ in counts.most_common() if n), 1)
        kept = tuple(
            word for word in given if all(self._n_tokens(word, *context) == n_tokens for context in contexts)
        )
        dropped = tuple(word for word in given if word not in set(kept))
        self.fillers.append(Fillers(what, len(kept), len(given), n_tokens, dropped))
        return kept

    def _n_tokens(self, word: str, before: str, after: str) -> int:
        """Tokens of a word between these texts; 0 where a token reaches out of it."""
        before, after = before[-CONTEXT:], after[:CONTEXT]
        start, stop = len(before), len(before) + len(word)
        text = before + word + after
        mine = [
            (first, last)
            for first, last in encode(self.tokenizer, text, bos=False).offsets
            if first < stop and last > start and text[first:last].strip()
        ]
        inside = all(text[first:start].isspace() or first >= start for first, _ in mine) and all(
            last <= stop for _, last in mine
        )
        return len(mine) if inside else 0
