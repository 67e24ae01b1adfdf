"""The checks of a circuit: each against runs made one by one, and what they say of circuits that are nothing."""

import numpy as np
import pytest

import reference
from circuit_parts import drawn_prompts, edge_names, made_circuit, node_names, telling_prompts
from patchpoint.circuits.ablation import ablate_nodes
from patchpoint.circuits.completeness import Removals, greedy_removal
from patchpoint.circuits.evaluate import evaluate
from patchpoint.circuits.evaluation import edge_values, node_values
from patchpoint.circuits.kept import circuit_without
from patchpoint.circuits.proof import Baseline, Evaluation, prove
from patchpoint.circuits.random_circuits import random_circuit
from patchpoint.circuits.selection import connected, top_edges
from patchpoint.engine.gradients import attribute_edges
from patchpoint.engine.graph.edges import Graph
from patchpoint.errors import InvalidArgument, ResultsError
from words import tiny_model

FEW = {"random_circuits": 4, "subsets": 3, "greedy_steps": 2, "greedy_choices": 2}


def mean_of(model, data, kept, **settings):
    return node_values(model, data, [kept], **settings)[1][0].mean()


def best_nodes(model, data, n):
    """The n nodes that a search by single ablations keeps."""
    found = ablate_nodes(model, data)
    drops = found.attrs["clean"] - found.values
    names = [str(name) for name in found["node"].values]
    best = set(np.array(names)[np.argsort(-drops)[:n]])
    return made_circuit(model, data, nodes=[name for name in names if name in best])


def best_edges(model, data, n):
    """The n edges that attribution says raise the metric most."""
    scores = -attribute_edges(model.run(data.clean), model.run(data.corrupt))
    return made_circuit(model, data, edges=top_edges(scores, n, by="value"))


@pytest.mark.parametrize("ablation", ["mean", "zero"])
def test_removals_of_nodes_are_those_of_single_runs(ablation):
    model = tiny_model("llama")
    data = telling_prompts(model, 4, seed=1)
    nodes = ["0.1", "mlp 0", "1.2", "2.0", "mlp 2"]
    proof = prove(made_circuit(model, data, nodes=nodes, ablation=ablation), model, data, **FEW)
    whole = mean_of(model, data, nodes, ablation=ablation)
    for name, drop in zip(proof.minimality["node"].values, proof.minimality.values, strict=True):
        rest = [other for other in nodes if other != name]
        assert drop == pytest.approx(whole - mean_of(model, data, rest, ablation=ablation), abs=1e-5)
    assert set(proof.superfluous) == {
        str(name) for name, drop in zip(nodes, proof.minimality.values, strict=True) if drop <= 0
    }
    for removals, n in ((proof.random_removals, 3), (proof.greedy_removals, 2)):
        assert len(removals.removed) == n
        for removed, circuit, rest in zip(removals.removed, removals.circuit, removals.model, strict=True):
            kept = [[name for name in names if name not in removed] for names in (nodes, node_names(model))]
            assert set(removed) <= set(nodes)
            assert circuit == pytest.approx(mean_of(model, data, kept[0], ablation=ablation), abs=1e-5)
            assert rest == pytest.approx(mean_of(model, data, kept[1], ablation=ablation), abs=1e-5)


def test_a_removal_is_that_of_the_hooked_model():
    """The model without 0.1 and MLP 1, zero in their places, by hooks on the Hugging Face model."""
    model = tiny_model("gpt2")
    data = drawn_prompts(model, 3, seed=2)
    circuit = made_circuit(model, data, nodes=["0.1", "mlp 1", "2.2"], ablation="zero")
    found = Removals(circuit, model, data).of([("0.1", "mlp 1")])
    edits = [(0, "z", None, 1, "replace", 0.0), (1, "mlp_out", None, None, "replace", 0.0)]
    want = []
    for ids, right, wrong in zip(data.clean.tokens, data.correct_tokens, data.incorrect_tokens, strict=True):
        logits = reference.logits(model.hf, ids, edits)[0]
        want.append(float(logits[right] - logits[wrong]))
    assert found.model[0] == pytest.approx(np.mean(want), abs=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_removing_a_node_takes_its_edges(family):
    model = tiny_model(family)
    data = telling_prompts(model, 3, seed=3)
    every = edge_names(model)
    edges = [*every[::3], ("embed", "logits")]
    circuit = made_circuit(model, data, edges=edges)
    found = Removals(circuit, model, data).of([("1.2", "mlp 0")])
    touched = {"1.2", "1.2.q", "1.2.k", "1.2.v", "mlp 0"}
    kept = [[edge for edge in mine if not touched & set(edge)] for mine in (edges, every)]
    assert list(circuit_without(circuit, ("1.2", "mlp 0"))) == kept[0]
    _, values = edge_values(model, data, kept)
    assert [found.circuit[0], found.model[0]] == pytest.approx(values.mean(1).tolist(), abs=1e-5)


def test_the_greedy_search_takes_the_widest_gap():
    model = tiny_model("llama")
    data = telling_prompts(model, 4, seed=4)
    nodes = ["0.1", "mlp 0", "1.2", "2.0"]
    removals = Removals(made_circuit(model, data, nodes=nodes), model, data)
    found = greedy_removal(removals, 2, 10, np.random.default_rng(0))
    first = max(nodes, key=lambda name: removals.of([(name,)]).gaps[0])
    second = max(
        (name for name in nodes if name != first), key=lambda name: removals.of([(first, name)]).gaps[0]
    )
    assert found.removed == ((first,), (first, second))
    assert found.gaps.tolist() == pytest.approx([removals.of([names]).gaps[0] for names in found.removed])


def test_random_circuits_have_the_size_of_the_circuit():
    model = tiny_model("llama")
    data = drawn_prompts(model, 2, seed=5)
    draw = np.random.default_rng(0)
    nodes = made_circuit(model, data, nodes=["0.1", "0.2", "mlp 0", "2.3"])
    found = {random_circuit(nodes, model, draw) for _ in range(20)}
    assert len(found) > 10
    for names in found:
        assert sorted(name.startswith("mlp") for name in names) == [False] * 3 + [True]
        assert set(names) <= set(node_names(model))


@pytest.mark.parametrize("n", [0, 1, 2, 7, 40, 400])
def test_random_edge_circuits_have_a_path_and_edges_of_the_model(n):
    model = tiny_model("gpt2")
    data = drawn_prompts(model, 2, seed=5)
    graph, every = Graph.of(model), edge_names(model)
    circuit = made_circuit(
        model, data, edges=[every[i] for i in np.random.default_rng(1).permutation(len(every))[:n]]
    )
    draw, seen = np.random.default_rng(0), set()
    for _ in range(10):
        table = random_circuit(circuit, model, draw)
        assert table.sum() == len(circuit.edges) == min(n, len(every))
        assert not (table & ~graph.readable.numpy()).any()
        names = [(str(graph.senders[sender]), str(graph.ports[port])) for sender, port in np.argwhere(table)]
        assert n == 0 or connected(graph, names)
        seen.add(tuple(names))
    assert len(seen) > 5 or not 1 < n < len(every)


def test_a_circuit_is_placed_among_random_ones():
    ends = Evaluation(np.full(3, 5.0), np.full(3, 4.0), np.full(3, 1.0))
    baseline = Baseline(ends, np.array([1.0, 3.9, 4.0, 4.5]), ends.empty)
    assert (baseline.n_as_good, baseline.p_value) == (2, 3 / 5)
    assert not baseline.better_than_random
    worse = Baseline(ends, np.full(19, 3.0), ends.empty)
    assert (worse.p_value, worse.better_than_random) == (1 / 20, True)
    assert str(worse) == "better than random: 0 of 19 random circuits of the same size are as good (p = 0.05)"
    fewer = Baseline(ends, np.full(18, 3.0), ends.empty)
    assert str(fewer).startswith("no better than random")
    assert "too few" in str(fewer)
    turned = Evaluation(-ends.full, -ends.circuit, -ends.empty)
    assert Baseline(turned, np.array([-1.0, -3.9, -4.0, -4.5]), turned.empty).n_as_good == 2


@pytest.mark.parametrize(
    ("full", "empty", "corrupt"),
    [
        ((1.0, -2.0, 2.0), (0.0, 0.0, 0.0), (-3.0, -3.0, -3.0)),
        ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)),
        ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 1.5, 0.5)),
        ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (2.0, 2.0, 2.0)),
    ],
    ids=["as without parts", "nothing changes", "as on the twins", "worse than on the twins"],
)
def test_where_the_model_does_not_do_the_task_no_circuit_is_better(full, empty, corrupt):
    full, empty, corrupt = map(np.array, (full, empty, corrupt))
    baseline = Baseline(Evaluation(full, full, empty), np.full(40, -9.0), corrupt)
    assert not baseline.better_than_random
    assert "nothing for a circuit to do" in str(baseline)


def test_a_circuit_that_does_the_work_is_better_than_random():
    model = tiny_model("gpt2")
    data, held_out = telling_prompts(model, 6, seed=6), telling_prompts(model, 6, seed=7)
    proof = prove(
        best_edges(model, data, 60), model, data, held_out=held_out, **{**FEW, "random_circuits": 20}
    )
    assert proof.baseline.better_than_random
    assert "against chance, hold-out prompts: better than random" in str(proof)
    assert proof.held_out.faithfulness.value == evaluate(proof.circuit, model, held_out).faithfulness.value
    assert proof.baseline.evaluation is proof.held_out


@pytest.mark.parametrize("kind", ["nodes", "edges"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_on_an_untrained_model_a_circuit_is_no_better_than_random(family, kind):
    model = tiny_model(family)
    data, held_out = drawn_prompts(model, 16, seed=8), drawn_prompts(model, 16, seed=9)
    circuit = {"nodes": best_nodes, "edges": best_edges}[kind](model, data, 20 if kind == "edges" else 5)
    proof = prove(circuit, model, data, held_out=held_out, **{**FEW, "random_circuits": 20})
    assert not proof.baseline.better_than_random
    assert "hold-out prompts: no better than random: " in str(proof)


def test_answers_that_an_untrained_model_always_prefers_are_no_task():
    """With parts zeroed the one answer of all prompts is less likely; on the twins it is as likely."""
    model = tiny_model("gpt2")
    plain = drawn_prompts(model, 16, seed=8)
    liked, disliked = (
        int(i) for i in model.run(plain.clean).logits[:, 1:90].mean(0).topk(89).indices[[0, -1]] + 1
    )
    data = drawn_prompts(model, 16, seed=8, answers=[(liked, disliked)] * 16)
    size = made_circuit(model, data, nodes=["0.0", "0.1", "0.2", "1.1", "1.2", "mlp 0"], ablation="zero")
    draw = np.random.default_rng(1)
    tried = [random_circuit(size, model, draw) for _ in range(200)]
    best = tried[node_values(model, data, tried, ablation="zero")[1].mean(1).argmax()]
    proof = prove(
        made_circuit(model, data, nodes=best, ablation="zero"), model, data, **{**FEW, "random_circuits": 40}
    )
    assert (proof.evaluation.faithfulness.flag, proof.baseline.p_value <= 0.05) == (None, True)
    assert "on their corrupted twins" in proof.baseline.nothing_to_do
    assert not proof.baseline.better_than_random


def test_a_circuit_of_everything_is_no_better_than_random():
    model = tiny_model("gpt2")
    data = telling_prompts(model, 3, seed=10)
    proof = prove(made_circuit(model, data, edges=edge_names(model)), model, data, **FEW)
    assert (proof.baseline.p_value, proof.evaluation.faithfulness.value) == (1, pytest.approx(1))
    assert proof.random_removals.gaps.max() == pytest.approx(0, abs=1e-5)
    text = str(proof)
    assert "4 of 4 random circuits of the same size are as good (p = 1)" in text
    assert "hold-out prompts: none" in text


def test_an_empty_circuit_can_be_checked():
    model = tiny_model("gpt2")
    data = telling_prompts(model, 3, seed=10)
    proof = prove(made_circuit(model, data, nodes=[]), model, data, **FEW)
    assert (proof.minimality.sizes["node"], proof.superfluous, proof.greedy_removals.removed) == (0, (), ())
    assert proof.evaluation.faithfulness.value == pytest.approx(0, abs=1e-6)
    assert "no better than random" in str(proof)


def test_the_same_seed_gives_the_same_proof_and_progress_ends_at_its_total():
    model = tiny_model("llama")
    data = telling_prompts(model, 3, seed=11)
    circuit = made_circuit(model, data, nodes=["0.1", "mlp 0", "1.2"])
    calls = []
    first = prove(circuit, model, data, **FEW, progress=lambda done, total: calls.append((done, total)))
    assert str(first) == str(prove(circuit, model, data, **FEW))
    assert str(first) != str(prove(circuit, model, data, **FEW, seed=1))
    assert calls == sorted(calls)
    assert calls[-1][0] == calls[-1][1]


def test_what_cannot_be_checked_is_refused():
    model, other = tiny_model("gpt2"), tiny_model("llama")
    data = drawn_prompts(model, 3, seed=12)
    circuit = made_circuit(model, data, nodes=["0.1"])
    with pytest.raises(ResultsError, match="this circuit was found in tiny-gpt2"):
        prove(circuit, other, data)
    with pytest.raises(InvalidArgument, match="2 of the hold-out prompts are among the other prompts"):
        prove(circuit, model, data, held_out=data.at([0, 2]))
    with pytest.raises(InvalidArgument, match="random_circuits must be a whole number of at least 1, got 0"):
        prove(circuit, model, data, random_circuits=0)
    with pytest.raises(InvalidArgument, match=r"subsets must be .*, got 1\.5"):
        prove(circuit, model, data, subsets=1.5)
