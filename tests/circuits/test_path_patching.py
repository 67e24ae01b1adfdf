"""Path patching against its three passes done one by one with hooks on the untouched model."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import reference
import reference_graph
from patchpoint.circuits.path_patching import path_patching
from patchpoint.engine import Batch, Graph
from patchpoint.engine.sources import resampled
from patchpoint.errors import InvalidArgument, PromptError, ResultsError, UnknownName
from twins import RAGGED, SAME_LENGTH, made_prompts
from words import tiny_model

NODES = ("0.1", "0.3", "mlp 0", "1.0", "1.2", "mlp 1", "2.1", "mlp 2")
OUTPUTS = ("z", "mlp_out")
NEVER = -1e9
"""A threshold that no edge is below."""


def answered(model, pairs):
    """Prompts to which the model's own first and last choice are the answers."""
    prompts = made_prompts(pairs)
    logits = model.run(prompts.clean).logits
    right, wrong = tuple(logits.argmax(-1).tolist()), tuple(logits.argmin(-1).tolist())
    return replace(
        prompts,
        clean=Batch(prompts.clean.tokens, right, wrong),
        corrupt=Batch(prompts.corrupt.tokens, right, wrong),
        correct_tokens=right,
        incorrect_tokens=wrong,
    )


def places(model):
    """(name, layer, component, head) of all nodes."""
    for layer in range(model.n_layers):
        yield from ((f"{layer}.{head}", layer, "z", head) for head in range(model.n_heads))
        yield f"mlp {layer}", layer, "mlp_out", None


def outputs(model, ids, edits=()):
    """{name: output} of all nodes in one run, [1, token, width], and the embedding."""
    keys = [(layer, component) for layer in range(model.n_layers) for component in OUTPUTS]
    found = reference.activations(model.hf, ids, [*keys, (0, "resid_pre")], edits)
    out = {"embed": found[0, "resid_pre"]}
    for name, layer, component, head in places(model):
        value = found[layer, component]
        out[name] = value if head is None else value.unflatten(-1, (model.n_heads, -1))[:, :, head]
    return out


def put(model, values, names):
    """Edits that give these nodes these values."""
    edits = [
        (layer, component, None, head, "replace", values[name])
        for name, layer, component, head in places(model)
        if name in names
    ]
    return edits + ([(0, "resid_pre", None, None, "replace", values["embed"])] if "embed" in names else [])


def input_of(port, n_layers):
    """Where a port's input is read, and the edit's component and head that replaces it."""
    if port == "logits":
        return (n_layers - 1, "resid_post"), (n_layers - 1, "resid_post", None, None)
    if port.startswith("mlp"):
        layer = int(port.split()[1])
        return (layer, "mlp_in"), (layer, "mlp_in", None, None)
    layer, head, part = port.split(".")
    return (int(layer), "resid_pre"), (int(layer), f"{part}_input", None, int(head))


def three_passes(model, ids, written, ablated, edge):
    """Logits with the path of one edge patched.

    `ablated`: edits that knock all outside nodes out; `written`: what the first pass finds under them, clean and
    corrupted.
    """
    (sender, port), (clean, corrupt) = edge, written
    names = [name for name, *_ in places(model)]
    frozen = put(model, clean, set(names) - {sender}) + put(model, corrupt, {sender})
    place, (layer, component, at, head) = input_of(port, model.n_layers)
    heard = reference.activations(model.hf, ids, [place], frozen)[place]
    edit = (layer, component, at, head, "replace", heard)
    return reference.logits(model.hf, ids, [*ablated, edit])[0]


def difference(logits, prompts, number):
    return float(logits[prompts.correct_tokens[number]] - logits[prompts.incorrect_tokens[number]])


def possible(model, nodes):
    """Edges between these nodes, from the embedding and to the logits."""
    graph = Graph.of(model)
    return [
        (str(sender), str(port))
        for i, sender in enumerate(graph.senders)
        for j, port in enumerate(graph.ports)
        if graph.readable[i, j]
        and str(sender) in (*nodes, "embed")
        and (str(port.node) in nodes or str(port) == "logits")
    ]


def check_edges(model, prompts, nodes, ablated_of, found, edges):
    """Scores against the three passes; `ablated_of`: edits of one prompt."""
    full = reference_mean(model, prompts, [()] * len(prompts))
    alone = reference_mean(model, prompts, [ablated_of(number) for number in range(len(prompts))])
    n_possible = len(possible(model, nodes))
    assert int(np.isfinite(found.scores.values).sum()) == n_possible == len(found.steps)
    shares = {step.name: step.value for step in found.steps}
    moved = 0
    pairs = zip(prompts.clean.tokens, prompts.corrupt.tokens, strict=True)
    written = [[outputs(model, ids, ablated_of(n)) for ids in twins] for n, twins in enumerate(pairs)]
    for edge in edges:
        logits = [
            three_passes(model, ids, written[number], ablated_of(number), edge)
            for number, ids in enumerate(prompts.clean.tokens)
        ]
        want = np.mean([difference(each, prompts, number) for number, each in enumerate(logits)])
        assert found.scores.sel(sender=edge[0], port=edge[1]).item() == pytest.approx(alone - want, abs=2e-5)
        assert shares[" -> ".join(edge)] == pytest.approx(want / full, abs=2e-5)
        moved += abs(alone - want) > 1e-3
    assert moved > len(edges) / 10


def reference_mean(model, prompts, edits):
    return np.mean(
        [
            difference(reference.logits(model.hf, ids, edits[number])[0], prompts, number)
            for number, ids in enumerate(prompts.clean.tokens)
        ]
    )


def outside(nodes, model):
    return {name for name, *_ in places(model)} - set(nodes)


@pytest.mark.parametrize(("family", "every"), [("gpt2", 1), ("llama", 2), ("gpt_neox", 3)])
def test_r50_edges_of_a_node_circuit_equal_the_three_passes(family, every):
    model = tiny_model(family)
    prompts = answered(model, SAME_LENGTH[:2])
    each = [outputs(model, ids) for ids in prompts.corrupt.tokens]
    means = {name: torch.stack([found[name] for found in each]).mean(0) for name in each[0]}
    ablated = put(model, means, outside(NODES, model))
    found = path_patching(model, prompts, nodes=NODES, threshold=NEVER)
    some = possible(model, NODES)[::every]
    check_edges(model, prompts, NODES, lambda number: ablated, found, some)


def test_r50_resampled_and_zero_outside_equal_the_three_passes():
    model = tiny_model("llama")
    prompts = answered(model, SAME_LENGTH)
    each = [outputs(model, ids) for ids in prompts.corrupt.tokens]
    donors = resampled(model.run(prompts.corrupt), 3).prompts
    gone, some = (
        outside(NODES, model),
        [("embed", "1.2.k"), ("0.1", "1.2.v"), ("mlp 0", "2.1.q"), ("1.0", "logits")],
    )
    found = path_patching(model, prompts, nodes=NODES, threshold=NEVER, ablation="resample", seed=3)
    check_edges(model, prompts, NODES, lambda number: put(model, each[donors[number]], gone), found, some)
    found = path_patching(model, prompts, nodes=NODES, threshold=NEVER, ablation="zero")
    check_edges(
        model, prompts, NODES, lambda number: put(model, dict.fromkeys(each[0], 0.0), gone), found, some
    )


def test_r50_the_whole_graph_of_ragged_prompts_equals_the_three_passes():
    model = tiny_model("gpt2")
    prompts = answered(model, RAGGED)
    names = [name for name, *_ in places(model)]
    found = path_patching(model, prompts, threshold=NEVER)
    some = [("embed", "0.0.v"), ("embed", "logits"), ("0.2", "mlp 0"), ("0.2", "2.3.k"), ("mlp 1", "2.0.q")]
    check_edges(model, prompts, names, lambda number: [], found, some)


def test_r50_heads_behind_a_norm_of_their_sum_send_their_own_share():
    model = tiny_model("gemma2")
    prompts = answered(model, SAME_LENGTH)
    found = path_patching(model, prompts, threshold=NEVER)
    values = []
    for number, (ids, twin) in enumerate(zip(prompts.clean.tokens, prompts.corrupt.tokens, strict=True)):
        (stream, clean), (_, corrupt) = (
            reference_graph.as_run(model.hf, tokens, model.n_layers) for tokens in (ids, twin)
        )
        # Senders stand in the order embed, 0.0, 0.1, ...: number 2 is 0.1.
        heard = stream[1, "resid_pre"] + corrupt[2] - clean[2]
        logits = reference.logits(model.hf, ids, [(1, "v_input", None, 2, "replace", heard)])[0]
        values.append(difference(logits, prompts, number))
    full = reference_mean(model, prompts, [()] * 3)
    assert found.scores.sel(sender="0.1", port="1.2.v").item() == pytest.approx(
        full - np.mean(values), abs=2e-5
    )


def test_edges_below_the_threshold_are_kept_and_nodes_without_edges_dropped():
    model = tiny_model("gpt2")
    prompts = answered(model, SAME_LENGTH)
    shares = sorted(step.value for step in path_patching(model, prompts, threshold=NEVER).steps)
    threshold = (shares[3] + shares[4]) / 2
    found = path_patching(model, prompts, threshold=threshold)
    kept = [step.name for step in found.steps if step.kept]
    assert kept == [step.name for step in found.steps if step.value < threshold]
    assert sorted(kept) == sorted(" -> ".join(edge) for edge in found.edges)
    assert len(kept) == 4
    touched = {sender for sender, _ in found.edges} | {
        port.rsplit(".", 1)[0] if port[-1] in "qkv" else port for _, port in found.edges
    }
    assert set(found.nodes) == touched - {"embed", "logits"}
    assert len(found.nodes) < 15
    assert path_patching(model, prompts, threshold=NEVER).nodes == ()


def test_a_circuit_is_searched_within_saved_and_refused_on_another_model(tmp_path):
    model = tiny_model("gpt2")
    prompts = answered(model, SAME_LENGTH)
    whole = path_patching(model, prompts, threshold=0.999)
    again = path_patching(model, prompts, nodes=whole, threshold=NEVER, ablation="zero")
    assert set(again.settings["nodes"].split(", ")) == set(whole.nodes)
    whole.save(tmp_path / "circuit.json")
    loaded = type(whole).load(tmp_path / "circuit.json")
    assert loaded.edges == whole.edges
    assert loaded.steps == whole.steps
    np.testing.assert_array_equal(loaded.scores, whole.scores)
    with pytest.raises(ResultsError, match="found in tiny-gpt2"):
        path_patching(tiny_model("llama"), prompts, nodes=whole)


def test_progress_ends_at_the_whole():
    model, seen = tiny_model("gpt2"), []
    prompts = answered(model, SAME_LENGTH)
    path_patching(model, prompts, nodes=NODES, threshold=NEVER, progress=lambda *done: seen.append(done))
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_what_cannot_be_done_is_refused():
    model = tiny_model("gpt2")
    prompts = answered(model, SAME_LENGTH)
    with pytest.raises(UnknownName, match=r"9\.9"):
        path_patching(model, prompts, nodes=["9.9"])
    with pytest.raises(UnknownName, match="meen"):
        path_patching(model, prompts, ablation="meen")
    with pytest.raises(InvalidArgument, match="list of names"):
        path_patching(model, prompts, nodes="0.1")
    with pytest.raises(InvalidArgument, match="every edge would be kept"):
        path_patching(model, prompts, threshold=80.0)
    with pytest.raises(InvalidArgument, match="got nan"):
        path_patching(model, prompts, threshold=float("nan"))
    with pytest.raises(PromptError, match="need a positive one"):
        path_patching(model, prompts, metric="kl")
    with pytest.raises(PromptError, match="line up"):
        path_patching(model, answered(model, RAGGED), nodes=NODES)
