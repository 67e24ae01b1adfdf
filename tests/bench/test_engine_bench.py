"""Patching and knock-outs compared with the hook loop, their least arithmetic, and sweeps within a budget."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import patchpoint as pp
from patchpoint.bench.limit import nodes_flops
from patchpoint.bench.memory import bench_memory
from patchpoint.bench.node_loop import hook_loop_nodes
from patchpoint.bench.nodes import bench_ablate_nodes, bench_patch_heads
from patchpoint.bench.pairs import random_pairs
from patchpoint.circuits import patch_heads
from patchpoint.cli.main import main
from patchpoint.engine.cost import block_cost
from patchpoint.engine.graph.nodes import senders
from patchpoint.engine.sweep import base_values
from words import tiny_model


@pytest.fixture(autouse=True)
def quick_rate(monkeypatch):
    monkeypatch.setattr("patchpoint.bench.timing.RATE_SECONDS", 0.01)


@pytest.mark.parametrize("bench", [bench_patch_heads, bench_ablate_nodes])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_sweep_and_hook_loop_agree_and_are_timed(family, bench):
    model = tiny_model(family)
    shape = {"first": 3} if bench is bench_patch_heads else {}
    result = bench(model, n_prompts=3, n_tokens=5, rounds=2, every=2, **shape)
    assert result.max_difference < 1e-5
    assert result.n_nodes == (12 if bench is bench_patch_heads else 15)
    assert result.loop_samples == (result.n_nodes + 1) // 2
    assert result.ratio == result.loop_seconds / result.sweep_seconds
    assert result.loop_spread[0] <= result.loop_seconds <= result.loop_spread[1]
    assert result.share_of_limit == pytest.approx(result.flops / result.rate / result.sweep_seconds)
    assert json.loads(json.dumps(result.to_dict()))["row"] == result.row


@pytest.mark.parametrize("bench", [bench_patch_heads, bench_ablate_nodes])
def test_a_wrong_sweep_shows_as_a_difference(bench, monkeypatch):
    name = {bench_patch_heads: "patch_heads_by_prompt", bench_ablate_nodes: "ablate_nodes_by_prompt"}[bench]
    real = getattr(__import__("patchpoint.bench.nodes", fromlist=[name]), name)
    monkeypatch.setattr(f"patchpoint.bench.nodes.{name}", lambda *args: real(*args) + 0.01)
    shape = {"first": 3} if bench is bench_patch_heads else {}
    result = bench(tiny_model("gpt2"), n_prompts=2, n_tokens=5, rounds=1, every=5, **shape)
    assert result.max_difference > 1e-3


def test_random_pairs_are_of_the_shape_asked_for():
    model = tiny_model("gpt2")
    prompts = random_pairs(model, 40, 6, 2, seed=1)
    for clean, corrupt in zip(prompts.clean.tokens, prompts.corrupt.tokens, strict=True):
        assert len(clean) == len(corrupt) == 6
        assert clean[:2] == corrupt[:2]
        assert clean[2] != corrupt[2]
    assert all(a != b for a, b in zip(prompts.correct_tokens, prompts.incorrect_tokens, strict=True))
    assert max(max(ids) for ids in prompts.clean.tokens) < 97
    assert random_pairs(model, 40, 6, 2, seed=1) == prompts != random_pairs(model, 40, 6, 2, seed=2)
    assert np.isfinite(patch_heads(model, prompts)).all()


@pytest.mark.parametrize("shape", [(0, 5, 1), (3, 0, 0), (3, 5, 5), (3, 5, -1)])
def test_impossible_shapes_are_refused(shape):
    with pytest.raises(pp.PatchpointError, match=r"at least 1|cannot differ"):
        random_pairs(tiny_model("gpt2"), *shape, seed=0)


def test_the_loop_leaves_the_model_as_it_is():
    model = tiny_model("llama")
    prompts = random_pairs(model, 2, 4, 1, seed=0)
    before = model.hf(torch.tensor(prompts.clean.tokens)).logits
    nodes = senders(model)[1:]
    loop = hook_loop_nodes(model, prompts, nodes, lambda outputs: outputs)
    assert loop.values.shape == (len(nodes), 2)
    assert len(loop.seconds) == len(nodes)
    assert torch.equal(model.hf(torch.tensor(prompts.clean.tokens)).logits, before)
    clean = base_values(model.run(prompts.clean), "logit_diff")
    assert (loop.values - clean).abs().amin(1).max() > 1e-4


@pytest.mark.parametrize("family", ["gpt2", "llama", "gptj"])
def test_the_least_arithmetic_by_hand(family):
    """Three layers, four tokens, the last two changed: every product written out."""
    model = tiny_model(family)
    c, logits = block_cost(model, 0), 2 * 2 * 32
    both, pairs = 2 * (c.q + c.kv + c.rest), 3 + 4
    last = 2 * c.kv + c.q + c.rest + 4 * c.pair
    own_share = 2 * 8 * 32
    mlp = 0 if model.adapter.blocks[0].parallel else c.rest - 2 * 32 * 32
    head = [
        2 * (own_share + mlp) + both + pairs * c.pair + last,
        2 * (own_share + mlp) + last,
        own_share + mlp,
    ]
    neurons = [both + pairs * c.pair + last, last, 0]
    whole = 2 * (4 * (c.q + c.kv + c.rest) + 10 * c.pair) + 4 * c.kv + c.q + c.rest + 4 * c.pair
    runs = whole + 2 * (both + pairs * c.pair) + last + 2 * logits
    by_node = {
        str(node): head[node.layer] if node.kind == "head" else neurons[node.layer]
        for node in senders(model)[1:]
    }
    for node in senders(model)[1:]:
        assert nodes_flops(model, [node], 4, 2) == runs + by_node[str(node)] + logits
    everything = sum(by_node.values()) + len(by_node) * logits
    assert nodes_flops(model, senders(model)[1:], 4, 2) == runs + everything


def test_the_sweep_does_little_more_than_the_least_arithmetic():
    """Counted while it runs; what it does beyond are whole output projections and rows that share a norm."""
    model = tiny_model("gpt2")
    prompts = random_pairs(model, 4, 6, 3, seed=0)
    heads = [node for node in senders(model) if node.kind == "head"]
    with FlopCounterMode(display=False) as counter:
        patch_heads(model, prompts)
    least = 4 * nodes_flops(model, heads, 6, 3)
    assert least < counter.get_total_flops() < 1.5 * least


@pytest.mark.slow
def test_memory_rows_measure_fresh_processes_and_equal_values():
    load = partial(tiny_model, "llama")
    rows = bench_memory(load, budgets=(0.5, 0.7), n_prompts=8, n_tokens=60, needed_gib=0.6)
    assert [row.budget_gib for row in rows] == [0.5, 0.7]
    assert rows[0].at_once_gib > 0.6 > 0.5 > rows[0].planned_gib
    assert rows[0].n_chunks > rows[1].n_chunks
    assert all(row.growth_gib > 0 for row in rows)
    assert max(row.max_difference for row in rows) < 1e-5
    assert rows[0].to_dict()["within_budget"] == rows[0].within_budget


def test_the_command_measures_rows_by_name(capsys, monkeypatch):
    monkeypatch.setattr("patchpoint.cli.bench.random_gpt2", lambda seed: tiny_model("gpt2"))
    arguments = ["bench", "engine", "--model", "gpt2-small-random", "--only", "patch-heads", "--rounds", "1"]
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--json", "--quiet"])
    assert end.value.code == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"patch-heads"}
    assert document["patch-heads"]["n_prompts"] == 16
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert "ratio" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main(["bench", "engine", "--only", "patch-head"])
    assert end.value.code == 2
    assert "did you mean patch-heads" in capsys.readouterr().err
