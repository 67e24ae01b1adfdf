"""Graph runs against the plain loop over nodes of the untouched model, and at their two ends."""

import numpy as np
import pytest
import torch

import patchpoint as pp
import reference_graph
from patchpoint.engine import Batch
from patchpoint.engine.graph.edges import Graph, kept_edges
from patchpoint.engine.graph.nodes import Node, Port
from patchpoint.engine.graph.run import graph_run
from patchpoint.errors import InvalidArgument, PromptError, UnknownName
from words import tiny_model

CLEAN = ((5, 9, 13, 2, 44, 7, 31), (11, 3, 60, 8), (5, 9, 13, 2, 44, 7, 30), (21, 22, 23))
CORRUPT = ((5, 9, 14, 2, 45, 7, 31), (12, 3, 61, 8), (5, 9, 15, 2, 44, 7, 36), (21, 22, 23))
"""Differing from tokens 2, 0, 2 on, and nowhere."""
ANSWERS, WRONG = (10, 20, 30, 40), (11, 21, 31, 41)
FAMILIES = {
    "llama": {},
    "gpt2": {},
    "gpt_neox": {},
    "mistral": {"sliding_window": 3},
    "gemma2": {"sliding_window": 4},
    "bloom": {},
}


def pair(model):
    return model.run(Batch(CLEAN, ANSWERS, WRONG)), model.run(Batch(CORRUPT))


def random_kept(model, density, seed=0):
    readable = Graph.of(model).readable
    return (torch.rand(readable.shape, generator=torch.Generator().manual_seed(seed)) < density) & readable


def wanted(model, kept):
    """[prompt, vocab] by the loop."""
    parallel = model.adapter.blocks[0].parallel
    rows = []
    for clean, corrupt in zip(CLEAN, CORRUPT, strict=True):
        final = reference_graph.final_resid(model.hf, clean, corrupt, kept[None], parallel)
        rows.append(reference_graph.logits(model.hf, clean, final))
    return torch.cat(rows)


@pytest.mark.parametrize("density", [0.15, 0.5, 0.85])
@pytest.mark.parametrize("family", FAMILIES)
def test_random_graphs_equal_the_loop_over_nodes(family, density):
    model = tiny_model(family, **FAMILIES[family])
    clean, corrupt = pair(model)
    kept = random_kept(model, density)
    run = graph_run(clean, corrupt, kept)
    want = wanted(model, kept)
    assert (run.logits - want).abs().max() / clean.logits.std() < 1e-5
    prompts = torch.arange(len(CLEAN))
    differences = want[prompts, list(ANSWERS)] - want[prompts, list(WRONG)]
    assert torch.allclose(run.values, differences, rtol=0, atol=1e-5 * float(clean.logits.std()))
    assert (want - clean.logits)[:-1].abs().max(1).values.min() > 1e-3


@pytest.mark.parametrize(
    "family", ["llama", "gpt2", "gpt_neox", "mistral", "gemma2", "olmo2", "bloom", "qwen3"]
)
def test_r52_all_edges_are_the_clean_run_and_none_the_corrupted_one_to_the_bit(family):
    model = tiny_model(family)
    clean, corrupt = pair(model)
    full = graph_run(clean, corrupt, Graph.of(model).readable)
    assert torch.equal(full.final_resid, clean.final_resid)
    assert torch.equal(full.logits, clean.logits)
    empty = graph_run(clean, corrupt, [])
    assert torch.equal(empty.final_resid, corrupt.final_resid)
    assert torch.equal(empty.logits, corrupt.logits)
    assert not torch.equal(full.logits[0], empty.logits[0])


def test_r52_in_bfloat16_too():
    hf = tiny_model("llama").hf.to(torch.bfloat16)
    model = pp.load(hf, tokenizer=tiny_model("llama").tokenizer, device="cpu", dtype="bfloat16")
    clean, corrupt = pair(model)
    assert torch.equal(graph_run(clean, corrupt, Graph.of(model).readable).logits, clean.logits)
    assert torch.equal(graph_run(clean, corrupt, []).logits, corrupt.logits)


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_results_do_not_depend_on_the_other_prompts_or_on_memory(family):
    model = tiny_model(family)
    clean, corrupt = pair(model)
    kept = random_kept(model, 0.6)
    together = graph_run(clean, corrupt, kept).logits
    tight = graph_run(clean, corrupt, kept, memory_gib=1e-9).logits
    assert torch.allclose(together, tight, rtol=0, atol=1e-5)
    for prompt in range(len(CLEAN)):
        alone = graph_run(model.run(Batch(CLEAN[prompt : prompt + 1])), model.run(CORRUPT[prompt]), kept)
        assert torch.allclose(alone.logits[0], together[prompt], rtol=0, atol=1e-5)


def test_kl_is_to_the_clean_run():
    model = tiny_model("llama")
    clean, corrupt = pair(model)
    assert graph_run(clean, corrupt, Graph.of(model).readable, "kl").values.abs().max() < 1e-6
    logprobs = clean.logits.log_softmax(-1), corrupt.logits.log_softmax(-1)
    want = (logprobs[0].exp() * (logprobs[0] - logprobs[1])).sum(-1)
    assert torch.allclose(graph_run(clean, corrupt, [], "kl").values, want, atol=1e-5)


def test_noise_on_the_embedding_is_a_corruption_too():
    model = tiny_model("llama")
    clean = model.run(Batch(CLEAN, ANSWERS, WRONG))
    noise = pp.Edit(pp.Site(0, "embed", (1,)), "add", torch.linspace(-1, 1, model.d_model))
    corrupt = model.run(Batch(CLEAN), edits=[noise])
    assert torch.equal(graph_run(clean, corrupt, Graph.of(model).readable).logits, clean.logits)
    assert torch.equal(graph_run(clean, corrupt, []).logits, corrupt.logits)
    edges = [("embed", "0.1.v"), ("0.1", "logits")]
    assert not torch.equal(graph_run(clean, corrupt, edges).logits, corrupt.logits)


def test_edges_by_name_as_objects_and_as_tables_are_the_same():
    model = tiny_model("llama")
    names = [("embed", "0.2.q"), ("0.2", "mlp 0"), ("mlp 0", "2.3.v"), ("2.3", "logits")]
    objects = [
        (Node("embed"), Port(Node("head", 0, 2), "q")),
        (Node("head", 0, 2), Port(Node("mlp", 0))),
        (Node("mlp", 0), Port(Node("head", 2, 3), "v")),
        (Node("head", 2, 3), Port(Node("logits"))),
    ]
    table = kept_edges(model, names)
    assert table.sum() == 4
    assert torch.equal(kept_edges(model, objects), table)
    assert torch.equal(kept_edges(model, table.numpy()), table)
    graph = Graph.of(model)
    unreadable = table | ~graph.readable
    assert torch.equal(kept_edges(model, unreadable), table)
    assert {graph.name(*at) for at in table.nonzero().tolist()} == {f"{s} -> {p}" for s, p in names}


@pytest.mark.parametrize(
    ("kept", "error", "message"),
    [
        ([("0.7", "logits")], UnknownName, "unknown sender '0.7'"),
        ([("0.1", "mlp 9")], UnknownName, "unknown port 'mlp 9'"),
        ([("1.0", "1.1.q")], InvalidArgument, "port 1.1.q cannot read 1.0"),
        (np.ones((3, 3), bool), InvalidArgument, r"got bool of shape \(3, 3\)"),
        (np.ones((16, 40)), InvalidArgument, "got float64 of shape"),
    ],
)
def test_kept_edges_that_cannot_be(kept, error, message):
    with pytest.raises(error, match=message):
        kept_edges(tiny_model("llama"), kept)


def test_runs_that_do_not_go_together():
    model = tiny_model("llama")
    clean, corrupt = pair(model)
    with pytest.raises(PromptError, match="prompt 1 has 4 tokens clean and 3 corrupted"):
        graph_run(clean, model.run(Batch((CORRUPT[0], (1, 2, 3), *CORRUPT[2:]))), [])
    with pytest.raises(PromptError, match="4 clean prompts and 1 corrupted"):
        graph_run(clean, model.run(CORRUPT[0]), [])
    with pytest.raises(InvalidArgument, match="another load"):
        graph_run(clean, tiny_model("llama").run(Batch(CORRUPT)), [])
    inside = pp.Edit(pp.Site(1, "z", -1), "scale", 0.0)
    with pytest.raises(InvalidArgument, match="got an edit of 1 z @ -1"):
        graph_run(clean, model.run(Batch(CORRUPT), edits=[inside]), [])
    with pytest.raises(UnknownName, match="did you mean logit_diff"):
        graph_run(clean, corrupt, [], "logit_dif")


@pytest.mark.real
def test_r52_on_smollm2():
    try:
        model = pp.load("smollm2-135m", device="cpu")
    except pp.PatchpointError as error:
        pytest.skip(f"SmolLM2-135M cannot be had here: {error}")
    clean = model.run(["The Eiffel Tower is in the city of", "Paris is in"])
    corrupt = model.run(Batch(tuple((*ids[:1], 5000, *ids[2:]) for ids in clean.batch.tokens)))
    assert torch.equal(graph_run(clean, corrupt, Graph.of(model).readable).logits, clean.logits)
    assert torch.equal(graph_run(clean, corrupt, []).logits, corrupt.logits)
