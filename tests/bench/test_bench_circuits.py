"""Node pruning timed against loops of hooks, which must find what it finds."""

import json

import pytest
import torch

import patchpoint as pp
import reference_pruning as slow
from patchpoint.bench.circuits import bench_node_pruning, candidates_of
from patchpoint.bench.pruning_loop import NOTHING, mean_difference, means_of, study_difference
from patchpoint.circuits.node_pruning import node_pruning
from patchpoint.cli.main import main
from patchpoint.engine.graph.nodes import Node
from patchpoint.tasks.prompts import Prompts
from twins import RAGGED, SAME_LENGTH, made_prompts
from words import tiny_model

REMOVED = frozenset({Node("mlp", 1), Node("head", 0, 3), Node("head", 2, 0), Node("head", 2, 1)})


def prepared(family, pairs=SAME_LENGTH):
    model = tiny_model(family)
    return model, slow.answered(model, made_prompts(pairs))


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_the_search_and_the_loop_agree_and_are_timed(family):
    result = bench_node_pruning(*prepared(family), threshold=5, every=2)
    assert result.max_difference < 1e-4
    assert result.n_candidates >= 15
    assert result.loop_samples == result.n_candidates // 2
    assert result.ratio == result.hooks.seconds / result.search_seconds
    assert result.study_ratio == result.study.seconds / result.search_seconds
    for loop in (result.hooks, result.study):
        assert 0 < loop.spread[0] <= loop.seconds <= loop.spread[1]
    assert json.loads(json.dumps(result.to_dict()))["ratio"] == result.ratio


def test_a_wrong_search_shows_as_a_difference(monkeypatch):
    real = pp.circuits.pruned_pass.PrunedPass.values
    monkeypatch.setattr("patchpoint.circuits.pruned_pass.PrunedPass.values", lambda *args: real(*args) + 0.01)
    assert bench_node_pruning(*prepared("llama"), every=2).max_difference > 0.1


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_both_loops_are_what_they_say(family):
    model, prompts = prepared(family)
    names = [str(node) for node in REMOVED]
    before = model.hf(torch.tensor(prompts.clean.tokens)).logits
    means = means_of(model, prompts.corrupt, NOTHING, {})
    for found, kind in (
        (mean_difference(model, prompts, REMOVED, means), "mean"),
        (study_difference(model, prompts, REMOVED), "circuit"),
    ):
        want = slow.mean_difference(model.hf, prompts, names, slow.stand_ins(model.hf, prompts, kind)(names))
        assert found == pytest.approx(want, abs=1e-5)
    assert torch.equal(model.hf(torch.tensor(prompts.clean.tokens)).logits, before)


def test_candidates_are_those_of_the_search():
    model, prompts = prepared("llama")
    circuit = node_pruning(model, prompts, threshold=5)
    found = list(candidates_of(model, circuit))
    assert len(found) == len(circuit.steps)
    assert found[0].removed == {Node("mlp", 2)}
    kept = {Node("mlp", 2)} if circuit.steps[0].kept else set()
    assert found[1].removed == {Node("mlp", 2), Node("head", 2, 0)} - kept
    assert [one.performance for one in found] == [step.value for step in circuit.steps]


def test_impossible_benches_are_refused():
    with pytest.raises(pp.PatchpointError, match="every must be at least 1, got 0"):
        bench_node_pruning(*prepared("llama"), every=0)
    with pytest.raises(pp.PatchpointError, match="one length, got 4 to 6 tokens"):
        bench_node_pruning(*prepared("llama", RAGGED))


@pytest.fixture
def command(monkeypatch, tmp_path):
    """The command on a tiny model whose prompts are always the same."""
    model, prompts = prepared("llama")
    monkeypatch.setattr("patchpoint.cli.bench_circuits.model_for", lambda *_: model)
    monkeypatch.setattr(Prompts, "load", classmethod(lambda cls, path, model: prompts))

    def run(*more):
        with pytest.raises(SystemExit) as left:
            main(["bench", "circuits", "--prompts", "made.jsonl", "--every", "5", "--quiet", *more])
        return left.value.code

    return run


def test_the_command_prints_a_table_or_json(command, capsys):
    assert command() == 0
    told = " ".join(capsys.readouterr().out.split())
    for said in ("hook loop", "published procedure", "x faster", "scaled up", "percent points"):
        assert said in told
    assert command("--json", "--threshold", "5") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["max_difference"] < 1e-4
    assert document["n_prompts"] == 3


def test_the_command_refuses_in_one_line(command, capsys):
    assert command("--every", "0") == 2
    assert "every must be at least 1" in capsys.readouterr().err
