"""Pairs of prompts of a given shape, for measurements that do not depend on what they say."""

import torch

from patchpoint.engine import Batch, Model
from patchpoint.errors import InvalidArgument
from patchpoint.tasks.prompts import Prompts

from .timing import check_positive


def random_pairs(model: Model, n_prompts: int, n_tokens: int, first: int, seed: int) -> Prompts:
    """Random tokens; the twins differ from token `first` on (at that one surely). InvalidArgument for odd shapes."""
    check_positive(prompts=n_prompts, tokens=n_tokens)
    if not 0 <= first < n_tokens:
        raise InvalidArgument(f"twins of {n_tokens} tokens cannot differ from token {first} on")
    generator = torch.Generator().manual_seed(seed)
    vocab = min(model.n_embeddings, model.adapter.d_vocab)

    def drawn(low: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, vocab, shape, generator=generator)

    clean, corrupt = drawn(0, n_prompts, n_tokens), drawn(0, n_prompts, n_tokens)
    corrupt[:, :first] = clean[:, :first]
    corrupt[:, first] = (clean[:, first] + drawn(1, n_prompts)) % vocab
    correct = drawn(0, n_prompts)
    incorrect = (correct + drawn(1, n_prompts)) % vocab
    rights, wrongs = tuple(correct.tolist()), tuple(incorrect.tolist())
    sides = [tuple(tuple(ids) for ids in side.tolist()) for side in (clean, corrupt)]
    texts = [tuple(model.tokenizer.decode(ids) for ids in side) for side in sides]
    return Prompts(
        texts[0],
        texts[1],
        Batch(sides[0], rights, wrongs),
        Batch(sides[1], rights, wrongs),
        rights,
        wrongs,
        tuple({"changed": (first, n_tokens)} for _ in range(n_prompts)),
    )
