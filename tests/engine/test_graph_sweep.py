"""Single-edge sweeps against the plain loop over nodes, graph by graph, and path patching done by hand."""

import numpy as np
import pytest
import torch

import reference
import reference_graph
from patchpoint.engine import Batch
from patchpoint.engine.graph import entry
from patchpoint.engine.graph.edges import Graph
from patchpoint.engine.graph.run import graph_run
from patchpoint.engine.graph.sweep import sweep_edges
from patchpoint.errors import InvalidArgument, UnknownName
from words import tiny_model

CLEAN = ((5, 9, 13, 2, 44, 7, 31), (11, 3, 60, 8), (5, 9, 13, 2, 44, 7, 30), (21, 22, 23))
CORRUPT = ((5, 9, 14, 2, 45, 7, 31), (12, 3, 61, 8), (5, 9, 15, 2, 44, 7, 36), (21, 22, 23))
COMPARED = (0, 1)
"""Prompts of different lengths, differing from tokens 2 and 0 on."""
ANSWERS, WRONG = (10, 20, 30, 40), (11, 21, 31, 41)
FAMILIES = {
    "llama": {},
    "gpt2": {},
    "gpt_neox": {},
    "mistral": {"sliding_window": 3},
    "gemma2": {"sliding_window": 4},
}


def based(model, kept, metric="logit_diff"):
    clean, corrupt = model.run(Batch(CLEAN, ANSWERS, WRONG)), model.run(Batch(CORRUPT))
    return graph_run(clean, corrupt, kept, metric)


def random_kept(model, density, seed=0):
    readable = Graph.of(model).readable
    return (torch.rand(readable.shape, generator=torch.Generator().manual_seed(seed)) < density) & readable


def every_edge(model):
    graph = Graph.of(model)
    numbers = graph.readable.nonzero().tolist()
    return numbers, [(graph.senders[s], graph.ports[p]) for s, p in numbers]


def wanted(model, kept, numbers, prompt):
    """[edge] by the loop: the logit difference of one prompt under each changed graph."""
    graphs = kept.repeat(len(numbers), 1, 1)
    for i, (sender, port) in enumerate(numbers):
        graphs[i, sender, port] ^= True
    parallel = model.adapter.blocks[0].parallel
    final = reference_graph.final_resid(model.hf, CLEAN[prompt], CORRUPT[prompt], graphs, parallel)
    logits = reference_graph.logits(model.hf, CLEAN[prompt], final)
    return (logits[:, ANSWERS[prompt]] - logits[:, WRONG[prompt]]).numpy()


@pytest.mark.parametrize("density", [0.2, 0.7, 1.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_edge_equals_a_graph_of_its_own_by_the_loop(family, density):
    model = tiny_model(family, **FAMILIES[family])
    kept = random_kept(model, density)
    base = based(model, kept)
    numbers, edges = every_edge(model)
    got = sweep_edges(base, edges)
    assert got.dims == ("edge", "prompt")
    scale = base.clean.logits.std().item()
    for prompt in COMPARED:
        want = wanted(model, kept, numbers, prompt)
        assert np.abs(got.values[:, prompt] - want).max() / scale < 1e-5
        assert (np.abs(want - base.values[prompt].item()) > 1e-4).sum() > 5
    assert np.array_equal(got.values[:, 3], np.full(len(edges), base.values[3].item(), np.float32))


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("family", ["bloom", "olmo2", "mixtral", "qwen3", "falcon", "gptj"])
def test_every_edge_equals_a_graph_run_of_its_own(family, density):
    """The graph run itself is compared with the loop elsewhere; here families that the loop is slow for."""
    model = tiny_model(family)
    kept = random_kept(model, density, seed=1)
    base = based(model, kept)
    numbers, edges = every_edge(model)
    got, scale = sweep_edges(base, edges), base.clean.logits.std().item()
    for i in range(0, len(edges), 5):
        changed = kept.clone()
        changed[tuple(numbers[i])] ^= True
        alone = graph_run(base.clean, base.corrupt, changed).values.numpy()
        assert np.abs(got.values[i] - alone).max() / scale < 1e-5, got.edge.values[i]


def test_r50_removing_an_edge_into_the_logits_is_the_direct_effect():
    """By hand in three passes: clean, corrupted, and the clean one with a head's share exchanged at the very end."""
    model = tiny_model("llama")
    base = based(model, Graph.of(model).readable)
    clean, corrupt = CLEAN[0], CORRUPT[0]
    place = (2, "resid_post")
    last = reference.activations(model.hf, clean, [place])[place][:, -1]
    written = [reference_graph.as_run(model.hf, ids, 3)[1] for ids in (clean, corrupt)]
    head = Graph.of(model).number(("0.2", "logits"))[0]
    patched = last + written[1][head][:, -1] - written[0][head][:, -1]
    want = reference_graph.logits(model.hf, clean, patched)[0]
    got = sweep_edges(base, [("0.2", "logits")]).values[0, 0]
    assert got == pytest.approx((want[10] - want[11]).item(), abs=1e-5)
    assert abs(got - base.values[0].item()) > 1e-3


@pytest.mark.parametrize("part", ["q", "k", "v"])
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma2"])
def test_r50_removing_an_edge_into_a_head_is_path_patching_through_its_port(family, part):
    """By hand: one head reads the stream with a sender's share exchanged, all behind it is free to move.

    Keys and values too, where the model shares them among heads.
    """
    model = tiny_model(family)
    base = based(model, Graph.of(model).readable)
    clean, corrupt = CLEAN[0], CORRUPT[0]
    place = (1, "resid_pre")
    stream = reference.activations(model.hf, clean, [place])[place]
    written = [reference_graph.as_run(model.hf, ids, 3)[1] for ids in (clean, corrupt)]
    patched = stream + written[1][0] - written[0][0]
    edit = (1, f"{part}_input", None, 2, "replace", patched)
    want = reference.logits(model.hf, clean, [edit])[0]
    got = sweep_edges(base, [("embed", f"1.2.{part}")]).values[0, 0]
    assert got == pytest.approx((want[10] - want[11]).item(), abs=1e-5)
    assert abs(got - base.values[0].item()) > 3e-4


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma2"])
def test_values_do_not_depend_on_chunks(family):
    model = tiny_model(family)
    base = based(model, random_kept(model, 0.6))
    _, edges = every_edge(model)
    roomy, tight = sweep_edges(base, edges), sweep_edges(base, edges, memory_gib=1e-9)
    assert np.abs(roomy.values - tight.values).max() / base.clean.logits.std().item() < 1e-5


def test_what_cannot_change_is_the_base_and_is_not_computed(monkeypatch):
    model = tiny_model("llama")
    base = based(model, [("embed", "0.0.v"), ("0.0", "logits"), ("embed", "1.2.k")])
    dead = [("0.0", "1.2.q"), ("0.1", "2.3.v"), ("embed", "mlp 1")]
    monkeypatch.setattr(entry, "ENTRIES", {})
    got = sweep_edges(base, dead)
    assert np.array_equal(got.values, base.values[None].repeat(len(dead), 1).numpy())


def test_a_sender_that_is_as_in_the_corrupted_run_changes_nothing(monkeypatch):
    """Head 1.1 hears nothing, so it writes what it does in the corrupted run."""
    model = tiny_model("llama")
    base = based(model, [("embed", "logits")])
    monkeypatch.setattr(entry, "ENTRIES", {})
    got = sweep_edges(base, [("1.1", "logits")])
    assert np.array_equal(got.values[0], base.values.numpy())


def test_coordinates_metrics_and_progress():
    model = tiny_model("llama")
    base = based(model, [("embed", "logits"), ("0.1", "logits")], "prob")
    edges = [("embed", "logits"), ("mlp 0", "1.1.k"), ("embed", "mlp 0")]
    told = []
    got = sweep_edges(base, edges, "kl", progress=lambda done, total: told.append((done, total)))
    assert got.edge.values.tolist() == ["embed -> logits", "mlp 0 -> 1.1.k", "embed -> mlp 0"]
    assert got.sender.values.tolist() == ["embed", "mlp 0", "embed"]
    assert got.port.values.tolist() == ["logits", "1.1.k", "mlp 0"]
    assert got.kept.values.tolist() == [True, False, False]
    assert told[-1][0] == told[-1][1] == 2 * len(edges)
    assert told == sorted(told)
    without = graph_run(base.clean, base.corrupt, [("0.1", "logits")])
    assert got.values[0] == pytest.approx(without.measured("kl").numpy(), abs=1e-6)
    own = sweep_edges(base, edges, lambda logits, prompts: logits[:, 7])
    assert own.values[0] == pytest.approx(without.logits[:, 7].numpy(), abs=1e-5)


def test_edges_that_cannot_be():
    model = tiny_model("llama")
    base = based(model, [])
    with pytest.raises(UnknownName, match=r"unknown port .1\.1\.w."):
        sweep_edges(base, [("embed", "1.1.w")])
    with pytest.raises(InvalidArgument, match="port mlp 0 cannot read mlp 0"):
        sweep_edges(base, [("mlp 0", "mlp 0")])
    with pytest.raises(UnknownName, match="metric"):
        sweep_edges(base, [("embed", "logits")], "nonsense")
    with pytest.raises(InvalidArgument, match="memory"):
        sweep_edges(base, [("embed", "logits")], memory_gib=-1)
