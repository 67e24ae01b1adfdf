"""Predictions without parts of the model, against hooks on the untouched model."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import reference
from patchpoint.circuits.ablation import ablate_nodes
from patchpoint.circuits.circuit import Circuit
from patchpoint.circuits.predictions import (
    prediction_pruning,
    predictions,
    predictions_by_node,
    same_prediction,
)
from patchpoint.engine import Batch
from patchpoint.errors import InvalidArgument, UnknownName
from twins import RAGGED, made_prompts
from words import tiny_model

NODES = [*(f"0.{h}" for h in range(4)), "mlp 0", *(f"1.{h}" for h in range(4)), "mlp 1"]
NODES += [*(f"2.{h}" for h in range(4)), "mlp 2"]


def edit_of(name):
    if name.startswith("mlp"):
        return (int(name[4:]), "mlp_out", None, None, "replace", 0.0)
    layer, head = map(int, name.split("."))
    return (layer, "z", None, head, "replace", 0.0)


def looped(model, prompts, names=()):
    """[prompt, vocab] without these nodes, set to 0."""
    edits = [edit_of(name) for name in names]
    return torch.cat([reference.logits(model.hf, ids, edits) for ids in prompts.clean.tokens])


def answered(model):
    """Prompts of which all but the last have the model's own choice as their answer."""
    prompts = made_prompts(RAGGED)
    best = looped(model, prompts).argsort(descending=True)
    right = (*best[:-1, 0].tolist(), int(best[-1, 7]))
    batches = (
        Batch(batch.tokens, right, prompts.incorrect_tokens) for batch in (prompts.clean, prompts.corrupt)
    )
    clean, corrupt = batches
    return replace(prompts, clean=clean, corrupt=corrupt, correct_tokens=right)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_the_table_says_what_the_hooked_model_says(family):
    model, removed = tiny_model(family), ("mlp 0", "1.2", "0.1")
    prompts = answered(model)
    found = predictions(model, prompts, removed, top=3, ablation="zero")
    assert found.removed == ("0.1", "mlp 0", "1.2")
    for said, names in (("before", ()), ("after", removed)):
        probs = looped(model, prompts, names).softmax(-1)
        for row, want in zip(found.rows, probs, strict=True):
            top = want.argsort(descending=True)[:3].tolist()
            assert [each.token for each in getattr(row, said)] == top
            assert [each.text for each in getattr(row, said)] == [f" w{token}" for token in top]
            assert [each.prob for each in getattr(row, said)] == pytest.approx(want[top].tolist(), abs=1e-5)
    after = looped(model, prompts, removed).argmax(-1).tolist()
    assert [row.was_correct for row in found.rows] == [True, True, False]
    assert [row.still_correct for row in found.rows] == [
        a == b for a, b in zip(after, prompts.correct_tokens, strict=True)
    ]
    before = looped(model, prompts).argmax(-1).tolist()
    assert [row.changed for row in found.rows] == [a != b for a, b in zip(after, before, strict=True)]
    assert any(row.changed for row in found.rows)


def test_the_table_as_text():
    model = tiny_model("gpt2")
    found = predictions(model, answered(model), ["mlp 0"], top=2, ablation="zero")
    lines = str(found).splitlines()
    assert lines[0].startswith("tiny-gpt2 without mlp 0 (zero): ")
    assert lines[0].endswith("2 with all nodes")
    assert lines[1].split() == ["prompt", "correct", "before", "after", "still", "correct"]
    assert len(lines) == 5
    first = found.rows[0]
    assert f"'{first.correct}'" in lines[2]
    assert f"'{first.after[0].text}' {first.after[0].prob:.2f}, '{first.after[1].text}'" in lines[2]
    assert lines[2].endswith("yes" if first.still_correct else "no")


def test_any_correct_next_token_is_right():
    model = tiny_model("gpt2")
    prompts = answered(model)
    last = int(looped(model, prompts)[-1].argmax())
    sets = tuple((token,) for token in prompts.correct_tokens[:-1])
    several = replace(prompts, correct_sets=(*sets, (prompts.correct_tokens[-1], last)))
    assert [row.was_correct for row in predictions(model, several, [], ablation="zero").rows] == [True] * 3


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_each_node_by_itself_as_the_hook_loop(family):
    model = tiny_model(family)
    prompts = answered(model)
    found = predictions_by_node(model, prompts, ablation="zero")
    want = np.array([looped(model, prompts, [name]).argmax(-1).tolist() for name in NODES])
    full = looped(model, prompts).argmax(-1).numpy()
    assert list(found["node"].values) == NODES
    np.testing.assert_array_equal(found["token"], want)
    np.testing.assert_array_equal(found["full"], full)
    np.testing.assert_array_equal(found["changed"], want != full)
    np.testing.assert_array_equal(found["right"], want == np.array(prompts.correct_tokens))
    assert found["text"].values.tolist() == [[f" w{token}" for token in row] for row in want]
    assert 0 < found["changed"].values.mean() < 1


def test_nodes_that_change_predictions_are_kept(tmp_path):
    model = tiny_model("gpt2")
    prompts = answered(model)
    full = looped(model, prompts).argmax(-1).numpy()
    shares = [(looped(model, prompts, [name]).argmax(-1).numpy() != full).mean() for name in NODES]
    assert 1 / 3 in shares
    assert max(shares) > 1 / 3
    for tolerance in (0.0, 1 / 3):
        found = prediction_pruning(model, prompts, tolerance=tolerance, ablation="zero")
        assert found.nodes == tuple(
            name for name, share in zip(NODES, shares, strict=True) if share > tolerance
        )
        np.testing.assert_allclose(found.scores, shares, atol=1e-6)
        found.save(tmp_path / "circuit.json")
        assert Circuit.load(tmp_path / "circuit.json").nodes == found.nodes
        assert [step.name for step in found.steps if step.kept] == list(found.nodes)


def test_same_prediction_as_a_metric_is_one_less_the_share_that_changes():
    model = tiny_model("gpt2")
    prompts = answered(model)
    swept = ablate_nodes(model, prompts, "zero", metric=same_prediction(model, prompts))
    changed = predictions_by_node(model, prompts, ablation="zero")["changed"].mean("prompt")
    np.testing.assert_allclose(swept.values, 1 - changed.values, atol=1e-6)
    assert swept.attrs["clean"] == 1.0
    assert swept.attrs["metric"] == "same_prediction"


def test_what_cannot_be_done_is_refused():
    model = tiny_model("gpt2")
    prompts = answered(model)
    with pytest.raises(InvalidArgument, match="top must be"):
        predictions(model, prompts, [], top=0)
    with pytest.raises(UnknownName, match=r"9\.9"):
        predictions(model, prompts, ["9.9"], ablation="zero")
    with pytest.raises(InvalidArgument, match="tolerance"):
        prediction_pruning(model, prompts, tolerance=20.0)
