"""Prompts in other words of the same number of tokens: another subject, or other sentences in front."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from patchpoint.engine import Model
from patchpoint.errors import PromptError
from patchpoint.models.tokens import encode, find_words, tokens_between
from patchpoint.tasks.facts import Fact
from patchpoint.tracing.corruption import Twin

Span = tuple[int, int]
GAP = " "
"""Between sentences."""


def behind(prefix: Sequence[str], prompt: str) -> str:
    """A prompt with sentences in front."""
    return GAP.join((*prefix, prompt))


def prefix_twin(fact: Fact, prefix: Sequence[str], false_prefix: Sequence[str]) -> Twin:
    """A fact's prompt behind the false sentences, where it stands behind the true ones."""
    named = [sentence for sentence in (*prefix, *false_prefix) if fact.subject in sentence]
    if named:
        raise PromptError(f"the sentence {named[0]!r} in front of the prompt names its subject")
    return Twin((behind(false_prefix, fact.prompt),))


def prefix_spans(model: Model, text: str, prefix: Sequence[str], bos: bool | None) -> Mapping[str, Span]:
    """The tokens of each sentence in front of a prompt, by "fact 1", "fact 2", ...; half-open."""
    encoded = encode(model.tokenizer, text, bos)
    spans, start = {}, 0
    for number, sentence in enumerate(prefix, start=1):
        spans[f"fact {number}"] = tokens_between(encoded, text, start, start + len(sentence))
        start += len(sentence) + len(GAP)
    return spans


def swapped(
    model: Model, fact: Fact, facts: Sequence[Fact], samples: int, seed: int, bos: bool | None
) -> Twin:
    """A fact's prompt with up to `samples` other facts' subjects of as many tokens in place of its own.

    Subjects of the same relation come first, those of the same attribute not at all; the order among them is
    drawn from `seed` and the fact. Raises PromptError when no other subject fits.
    """
    length = len(encode(model.tokenizer, fact.prompt, bos).ids)
    start, stop = find_words(fact.prompt, fact.subject)
    texts: list[str] = []
    for other in _in_drawn_order(fact, facts, seed):
        text = fact.prompt[:start] + other.subject + fact.prompt[stop:]
        if text not in texts and len(encode(model.tokenizer, text, bos).ids) == length:
            texts.append(text)
        if len(texts) == samples:
            break
    if not texts:
        raise PromptError(f"no other subject of the file has as many tokens as {fact.subject!r}")
    return Twin(tuple(texts))


def _in_drawn_order(fact: Fact, facts: Sequence[Fact], seed: int) -> Iterator[Fact]:
    others = [other for other in facts if other.subject != fact.subject and other.attribute != fact.attribute]
    order = np.random.default_rng((abs(seed), fact.number)).permutation(len(others))
    drawn = [others[i] for i in order]
    yield from (other for other in drawn if other.relation_id == fact.relation_id)
    yield from (other for other in drawn if other.relation_id != fact.relation_id)
