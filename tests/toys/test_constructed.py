"""Models of known circuits do what they say, by the parts that they say, and areas under the ROC curve are right."""

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import patchpoint as pp
from patchpoint.engine import graph_run, sweep_edges
from patchpoint.engine.graph import Graph
from patchpoint.errors import InvalidArgument, UnknownName
from patchpoint.toys import CONSTRUCTED, Constructed, constructed, edge_auc, node_auc

NAMES = tuple(CONSTRUCTED)
NOT_REDUNDANT = tuple(name for name in NAMES if name != "redundant")


def runs(toy):
    return toy.model.run(toy.prompts.clean), toy.model.run(toy.prompts.corrupt)


def mean_of(toy, edges):
    return float(graph_run(*runs(toy), edges).values.mean())


def losses(toy):
    """By edge, the mean metric of the whole model less that without the edge."""
    graph = Graph.of(toy.model)
    whole = graph_run(*runs(toy), graph.readable)
    edges = [(str(graph.senders[s]), str(graph.ports[p])) for s, p in graph.readable.nonzero().tolist()]
    values = sweep_edges(whole, edges).values.mean(1)
    return dict(zip(edges, float(whole.values.mean()) - values, strict=True))


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("name", NAMES)
def test_every_answer_of_the_hugging_face_model_is_right(name, noise):
    toy = constructed(name, n_prompts=64, noise=noise, seed=3)
    prompts = toy.prompts
    for batch, answers in (
        (prompts.clean, prompts.correct_tokens),
        (prompts.corrupt, prompts.incorrect_tokens),
    ):
        with torch.no_grad():
            said = toy.model.hf(torch.tensor(batch.tokens)).logits[:, -1].argmax(-1)
        assert said.tolist() == list(answers)


@pytest.mark.parametrize("name", NOT_REDUNDANT)
def test_each_true_edge_matters_and_no_other(name):
    toy = constructed(name)
    found = losses(toy)
    assert len(found) > 200
    for edge, loss in found.items():
        assert loss > 4.0 if edge in toy.edges else abs(loss) < 1e-4, edge


@pytest.mark.parametrize("name", NOT_REDUNDANT)
def test_with_noise_true_edges_still_matter_most(name):
    toy = constructed(name, noise=0.05)
    found = losses(toy)
    others = [abs(loss) for edge, loss in found.items() if edge not in toy.edges]
    assert 0 < max(others) < 0.1 * min(found[edge] for edge in toy.edges)


@pytest.mark.parametrize("name", NAMES)
def test_every_path_alone_does_the_task_and_nothing_else_does(name):
    toy = constructed(name)
    graph = Graph.of(toy.model)
    full, empty = mean_of(toy, graph.readable), mean_of(toy, [])
    assert full > 4.9
    assert empty == pytest.approx(-full, abs=1e-2)
    for path in toy.paths:
        assert mean_of(toy, path) == pytest.approx(full, abs=1e-4)
        for edge in path:
            assert mean_of(toy, path - {edge}) < 0.6 * full, edge
    others = graph.readable.clone()
    for edge in toy.edges:
        others[graph.number(edge)] = False
    assert mean_of(toy, others) == pytest.approx(empty, abs=1e-4)


def test_cutting_one_of_the_redundant_paths_changes_nothing():
    toy = constructed("redundant")
    (last,) = toy.paths[0] & toy.paths[1]
    for edge, loss in losses(toy).items():
        assert loss == pytest.approx(10.0, abs=1e-3) if edge == last else abs(loss) < 1e-4, edge
    graph = Graph.of(toy.model)
    for first in toy.paths[0] - {last}:
        for second in toy.paths[1] - {last}:
            kept = graph.readable.clone()
            for edge in (first, second):
                kept[graph.number(edge)] = False
            assert mean_of(toy, kept) < 5.0 - 1.0, (first, second)


@pytest.mark.parametrize("name", NAMES)
def test_a_named_node_is_needed_where_no_other_stands_in(name):
    toy = constructed(name)
    values = pp.ablate_nodes(toy.model, toy.prompts, "resample")
    losses = values.attrs["clean"] - values
    for node, loss in zip(values["node"].values, losses.values, strict=True):
        if node in (toy.nodes if name != "redundant" else {"mlp 2"}):
            assert loss > 1.0, node
        else:
            assert abs(loss) < 1e-4, node


def test_the_same_seed_makes_the_same_model_and_prompts():
    one, same, other = (constructed("lookup", noise=0.05, seed=seed) for seed in (1, 1, 2))
    assert one.model.fingerprint == same.model.fingerprint != other.model.fingerprint
    assert one.prompts.clean_texts == same.prompts.clean_texts != other.prompts.clean_texts
    assert one.prompts.header.task == "lookup"


def test_making_a_model_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    constructed("induction", noise=0.05)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("settings_", "error", "says"),
    [
        ({"name": "indution"}, UnknownName, "did you mean induction"),
        ({"name": "lookup", "noise": -1.0}, InvalidArgument, "0 or more"),
        ({"name": "lookup", "noise": float("nan")}, InvalidArgument, "0 or more"),
        ({"name": "lookup", "noise": 3.0}, InvalidArgument, "give less noise"),
        ({"name": "lookup", "n_prompts": 0}, InvalidArgument, "at least 1"),
        ({"name": "lookup", "n_prompts": 2.5}, InvalidArgument, "whole number"),
        ({"name": "lookup", "seed": -1}, InvalidArgument, "at least 0"),
        ({"name": "lookup", "noise": "much"}, InvalidArgument, "0 or more"),
    ],
)
def test_refusals(settings_, error, says):
    with pytest.raises(error, match=says):
        constructed(**settings_)


def test_a_circuit_that_cannot_be_is_refused():
    toy = constructed("lookup", n_prompts=1)
    parts = {"name": "x", "model": toy.model, "prompts": toy.prompts}
    with pytest.raises(UnknownName):
        Constructed(**parts, nodes=toy.nodes, paths=(frozenset({("9.1", "logits")}),))
    with pytest.raises(InvalidArgument, match=r"\['0.0'\]"):
        Constructed(**parts, nodes=toy.nodes | {"0.0"}, paths=toy.paths)


def table(values, senders=None, ports=None):
    values = np.array(values, dtype=np.float32)
    return xr.DataArray(
        values,
        dims=("sender", "port"),
        coords={
            "sender": senders or [f"s{i}" for i in range(values.shape[0])],
            "port": ports or [f"p{i}" for i in range(values.shape[1])],
        },
    )


def test_area_of_a_case_worked_by_hand():
    # True: 3 and 1; others: 2, 1, 0. 3 is above all three; 1 is below 2, ties with 1, is above 0: (3 + 1.5) / 6.
    scores = table([[-3.0, 2.0, 1.0], [np.nan, -1.0, 0.0]])
    assert edge_auc(scores, [("s0", "p0"), ("s1", "p1")]) == 4.5 / 6


def test_rounding_errors_are_ties_with_zero():
    scores = table([[20.0, 1e-6, 0.0, 0.0]])
    assert edge_auc(scores, [("s0", "p0"), ("s0", "p1")]) == (1 + 0.5) / 2


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans(), st.booleans()), min_size=2, max_size=24))
def test_area_is_the_share_of_pairs_in_order(drawn):
    values = [np.nan if hidden and not true else float(value) for value, true, hidden in drawn]
    truth = [("s0", f"p{i}") for i, (_, true, _) in enumerate(drawn) if true]
    scored = [(abs(v), true) for v, (_, true, _) in zip(values, drawn, strict=True) if v == v]
    pairs = [
        (mine > other) + 0.5 * (mine == other)
        for mine, true in scored
        if true
        for other, also in scored
        if not also
    ]
    if pairs:
        assert edge_auc(table([values]), truth) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    else:
        with pytest.raises(InvalidArgument, match="true parts and others"):
            edge_auc(table([values]), truth)


def test_area_of_nodes_leaves_the_embedding_out():
    scores = xr.DataArray([9.0, 2.0, 1.0], dims="node", coords={"node": ["embed", "0.0", "mlp 0"]})
    assert node_auc(scores, ["0.0"]) == 1.0
    assert node_auc(scores, ["mlp 0"]) == 0.0


def test_areas_refuse_what_they_cannot_score():
    scores = table([[1.0, np.nan]])
    with pytest.raises(InvalidArgument, match="no score"):
        edge_auc(scores, [("s0", "p1")])
    with pytest.raises(UnknownName, match="unknown port"):
        edge_auc(scores, [("s0", "p7")])
    with pytest.raises(InvalidArgument, match="named dims"):
        edge_auc(scores.T, [("s0", "p0")])
    with pytest.raises(InvalidArgument, match="named dims"):
        node_auc(scores, ["s0"])
