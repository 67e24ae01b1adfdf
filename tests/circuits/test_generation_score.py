"""Generation scores against greedy decoding token by token with hooks on the untouched model."""

from functools import cache

import numpy as np
import pytest
import torch

import patchpoint as pp
import reference
from patchpoint.circuits.generation_score import generated, generation_scores
from patchpoint.errors import InvalidArgument, UnknownName
from twins import SAME_LENGTH, made_prompts
from words import tiny_model

FAMILIES = ("gpt2", "llama", "gpt_neox")
REMOVED = {"pair": ("1.2", "0.1"), "with mlp": ("2.3", "mlp 1"), "none": ()}
STARTS = ((5, 9, 13, 2), (11, 3, 60), (7, 7, 1, 90, 12), (21, 22, 23), (40, 41, 8, 3, 9), (77, 5))


def words(ids):
    return " ".join(f"w{number}" for number in ids)


def edits_of(model, names, values=None):
    """Edits that put 0, or the mean output of each node, in place of these nodes at every token."""
    edits = []
    for name in names:
        layer, head = (int(name[4:]), None) if name.startswith("mlp") else map(int, name.split("."))
        component = "mlp_out" if head is None else "z"
        value = 0.0
        if values is not None:
            value = values[layer, component]
            value = value if head is None else value.unflatten(-1, (model.n_heads, -1))[head]
        edits.append((layer, component, None, head, "replace", value))
    return edits


def at_every_token(edits, n_tokens):
    """The same edits with a value per token, as the hooks want them."""
    return [
        (*edit[:5], edit[5] if isinstance(edit[5], float) else edit[5].expand(n_tokens, -1)) for edit in edits
    ]


def decoded(model, ids, n_tokens, edits=()):
    ids = list(ids)
    for _ in range(n_tokens):
        ids.append(int(reference.logits(model.hf, ids, at_every_token(edits, len(ids)))[0].argmax()))
    return ids[-n_tokens:]


@cache
def task(family, n_tokens):
    """Prompts whose answers are what the whole model says, or what it says without the pair, by turns."""
    model, rows = tiny_model(family), []
    for number, ids in enumerate(STARTS):
        said = decoded(model, ids, n_tokens, edits_of(model, REMOVED["pair"] if number % 2 else ()))
        if 0 not in said:
            # Wrong only in its last token, so that all before it are shared, and stand in the prompts.
            wrong = [*said[:-1], 96 if said[-1] != 96 else 95]
            rows.append((words(ids), words([ids[0] + 1, *ids[1:]]), words(said), words(wrong)))
    return pp.Prompts.from_pairs(model, *zip(*rows, strict=True))


def exact(model, prompts, edits):
    rights = []
    for text, answer in zip(prompts.clean_texts, prompts.correct_texts, strict=True):
        ids, want = ([int(word[1:]) for word in part.split()] for part in (text, answer))
        rights.append(decoded(model, ids, len(want), edits) == want)
    return np.mean(rights)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_greedy_decoding_with_hooks(family):
    model, tasks = tiny_model(family), {"three": task(family, 3), "one": task(family, 1)}
    found = generation_scores(model, tasks, REMOVED, random_sets=3, seed=1)
    for name, prompts in tasks.items():
        assert found["full"].sel(task=name) == exact(model, prompts, [])
        for removed, nodes in REMOVED.items():
            want = exact(model, prompts, edits_of(model, nodes))
            assert found["score"].sel(removed=removed, task=name) == want
        for draw in range(3):
            nodes = str(found["random_nodes"].sel(removed="pair", draw=draw).item()).split(", ")
            want = exact(model, prompts, edits_of(model, nodes))
            assert found["random"].sel(removed="pair", draw=draw, task=name) == want
    three = found.sel(task="three")
    assert 0 < three["full"] < 1
    assert (three["score"].sel(removed="none") == three["full"]).all()
    assert len(np.unique(three["score"])) > 1


@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_generated_text_is_that_of_greedy_decoding_with_hooks(ablation):
    model, prompts, nodes = tiny_model("llama"), task("llama", 3), ("1.2", "2.0", "mlp 1")
    values = None
    if ablation == "mean":
        keys = [(layer, name) for layer in range(3) for name in ("z", "mlp_out")]
        found = [reference.activations(model.hf, ids, keys) for ids in prompts.corrupt.tokens]
        values = {key: torch.cat([each[key][0] for each in found]).mean(0) for key in keys}
    edits, text = edits_of(model, nodes, values), []
    for clean in prompts.clean_texts:
        text.append(words(decoded(model, [int(word[1:]) for word in clean.split()], 4, edits)))
    assert generated(model, prompts, nodes, n_tokens=4, ablation=ablation) == tuple(text)
    want = [
        " ".join(line.split()[:3]) == right.strip()
        for line, right in zip(text, prompts.correct_texts, strict=True)
    ]
    scored = generation_scores(model, {"three": prompts}, {"some": nodes}, ablation=ablation, random_sets=0)
    assert scored["score"].item() == np.mean(want)
    assert scored["random"].shape == (1, 0, 1)
    assert all(len(line.split()) == 3 for line in generated(model, prompts, nodes))


def test_random_sets_have_as_many_nodes_of_each_kind_and_avoid_the_shared_ones():
    model, prompts = tiny_model("gpt2"), task("gpt2", 1)
    avoid = [f"0.{head}" for head in range(4)] + ["mlp 2", "1.0"]
    removed = {"some": ("1.2", "1.3", "mlp 0"), "others": ("2.2", "2.3", "mlp 1"), "head": ("2.1",)}
    found = generation_scores(model, {"one": prompts}, removed, random_sets=40, avoid=avoid, seed=2)
    drawn = [text.split(", ") for text in found["random_nodes"].sel(removed="some").values.tolist()]
    assert all(len(set(nodes)) == 3 and sum("mlp" in node for node in nodes) == 1 for nodes in drawn)
    assert {node for nodes in drawn for node in nodes}.isdisjoint(avoid)
    assert {node for nodes in drawn for node in nodes} == {
        *(f"{layer}.{head}" for layer in (1, 2) for head in range(4) if (layer, head) != (1, 0)),
        "mlp 0",
        "mlp 1",
    }
    assert (found["random_nodes"].sel(removed="others") == found["random_nodes"].sel(removed="some")).all()
    again = generation_scores(model, {"one": prompts}, removed, random_sets=40, avoid=avoid, seed=2)
    assert found.identical(again)
    other = generation_scores(model, {"one": prompts}, removed, random_sets=40, avoid=avoid, seed=3)
    assert not found["random_nodes"].equals(other["random_nodes"])


def test_what_cannot_be_scored_is_refused():
    model, prompts = tiny_model("gpt2"), task("gpt2", 1)
    with pytest.raises(UnknownName, match="resample"):
        generation_scores(model, {"one": prompts}, REMOVED, ablation="resample")
    with pytest.raises(UnknownName, match=r"9\.9"):
        generation_scores(model, {"one": prompts}, {"some": ["9.9"]})
    with pytest.raises(InvalidArgument, match="list of names"):
        generation_scores(model, {"one": prompts}, {"some": "1.2"})
    with pytest.raises(InvalidArgument, match="data is empty"):
        generation_scores(model, {}, REMOVED)
    with pytest.raises(InvalidArgument, match="answers' texts"):
        generation_scores(model, {"ids": made_prompts(SAME_LENGTH)}, REMOVED)
    with pytest.raises(InvalidArgument, match="cannot be drawn"):
        generation_scores(model, {"one": prompts}, REMOVED, avoid=["mlp 0", "mlp 1", "mlp 2"])
    with pytest.raises(InvalidArgument, match="n_tokens"):
        generated(model, prompts, (), n_tokens=0)
