"""Two paths: a keyword is found by two heads, of which the task needs both, or either.

Head 0.1 and head 1.3 each look for a keyword and say which it is, in spaces of their own. The MLP of layer 2 adds
the two up, half of the answer for each; in the redundant model it says the answer in full as soon as it hears half of
what one head says, so that nothing changes where one path is cut, however it is cut, but for the edge that they share.
Without a keyword the answer is `none`. Prompts are fillers with a keyword among them; in a twin a filler stands in
its place.
"""

import numpy as np
import torch

from .blueprint import D_MLP, START, Blueprint, Head, Mlp
from .constructed import Constructed, Example, construct
from .stream import Stream

KEYWORDS = ("red", "blue", "green", "black")
ANSWERS = ("stop", "sea", "grass", "night")
FILLERS = tuple(f"f{i}" for i in range(1, 7))
NONE, ASK = "none", "ask"
WORDS = (START, *KEYWORDS, *FILLERS, ASK, *ANSWERS, NONE)
N_BETWEEN, N_POSITIONS, D_HEAD = 5, 8, 8
STREAM = Stream(32, {"keyword": 4, "key": 1, "asks": 1, "first": 4, "second": 4, "answer": 4, "one": 1})
SHARPNESS, ANSWER, ENOUGH = 10.0, 10.0, 0.5
"""Attention score of a keyword, others 0; logit of its answer, that of none half of it; what `_either` must hear."""
LAST = ("mlp 2", "logits")
PATHS = tuple(
    frozenset({("embed", f"{head}.k"), ("embed", f"{head}.v"), (head, "mlp 2"), LAST})
    for head in ("0.1", "1.3")
)


def two_paths(*, n_prompts: int = 16, noise: float = 0.0, seed: int = 0) -> Constructed:
    """The model that needs both paths, and prompts drawn from `seed`.

    Idle nodes write `noise` times random numbers. InvalidArgument.
    """
    both = (PATHS[0] | PATHS[1],)
    return construct(
        "two-path", _blueprint(_sum()), both, _example, n_prompts=n_prompts, noise=noise, seed=seed
    )


def redundant(*, n_prompts: int = 16, noise: float = 0.0, seed: int = 0) -> Constructed:
    """As `two_paths`, the model for which either path is enough."""
    return construct(
        "redundant", _blueprint(_either()), PATHS, _example, n_prompts=n_prompts, noise=noise, seed=seed
    )


def _blueprint(mlp: Mlp) -> Blueprint:
    embed = torch.zeros(len(WORDS), STREAM.d_model)
    keywords = slice(1, 1 + len(KEYWORDS))
    embed[keywords, STREAM.space("keyword")] = torch.eye(len(KEYWORDS))
    embed[keywords, STREAM.space("key")] = 1.0
    embed[WORDS.index(ASK), STREAM.space("asks")] = 1.0
    embed[:, STREAM.space("one")] = 1.0
    unembed = torch.zeros(len(WORDS), STREAM.d_model)
    answers = slice(WORDS.index(ANSWERS[0]), WORDS.index(NONE))
    unembed[answers, STREAM.space("answer")] = ANSWER * torch.eye(len(ANSWERS))
    unembed[WORDS.index(NONE), STREAM.space("one")] = ANSWER / 2
    return Blueprint(
        family="gpt2",
        words=WORDS,
        stream=STREAM,
        d_head=D_HEAD,
        embed=STREAM.balanced(embed),
        unembed=unembed,
        positions=torch.zeros(N_POSITIONS, STREAM.d_model),
        heads={(0, 1): _finder("first"), (1, 3): _finder("second")},
        mlps={2: mlp},
    )


def _finder(says: str) -> Head:
    return Head(
        q=STREAM.read("asks", D_HEAD, SHARPNESS),
        k=STREAM.read("key", D_HEAD),
        v=STREAM.read("keyword", D_HEAD),
        o=STREAM.write(says, D_HEAD),
    )


def _sum() -> Mlp:
    """For every keyword (first + second) / 2, of one neuron."""
    inside, out = torch.zeros(STREAM.d_model, D_MLP), torch.zeros(D_MLP, STREAM.d_model)
    for keyword in range(len(KEYWORDS)):
        for says in ("first", "second"):
            inside[STREAM.space(says).start + keyword, keyword] = 1.0
        out[keyword, STREAM.space("answer").start + keyword] = 0.5
    return Mlp(inside, STREAM.balanced(out))


def _either() -> Mlp:
    """For every keyword min(first + second, ENOUGH) / ENOUGH, of two neurons."""
    inside, out = torch.zeros(STREAM.d_model, D_MLP), torch.zeros(D_MLP, STREAM.d_model)
    for keyword in range(len(KEYWORDS)):
        rising, falling = 2 * keyword, 2 * keyword + 1
        for says in ("first", "second"):
            inside[STREAM.space(says).start + keyword, [rising, falling]] = 1.0
        inside[STREAM.space("one"), falling] = -ENOUGH
        answer = STREAM.space("answer").start + keyword
        out[rising, answer], out[falling, answer] = 1 / ENOUGH, -1 / ENOUGH
    return Mlp(inside, STREAM.balanced(out))


def _example(generator: np.random.Generator) -> Example:
    keyword, at = int(generator.integers(len(KEYWORDS))), int(generator.integers(N_BETWEEN))
    fillers = [str(word) for word in generator.choice(FILLERS, N_BETWEEN)]
    shown = [*fillers[:at], KEYWORDS[keyword], *fillers[at + 1 :]]
    return (START, *shown, ASK), (START, *fillers, ASK), ANSWERS[keyword], NONE
