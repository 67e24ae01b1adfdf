"""Edges chosen by their scores, against plain loops."""

import time

import numpy as np
import pytest
import xarray as xr

from patchpoint.circuits.evaluation import edge_values
from patchpoint.circuits.selection import Choice, connected, edges_above, greedy_edges, top_edges
from patchpoint.engine.graph import Graph
from patchpoint.errors import InvalidArgument, UnknownName
from twins import SAME_LENGTH, made_prompts
from words import tiny_model


def made_scores(model, seed=0, ties=False):
    graph = Graph.of(model)
    values = np.random.default_rng(seed).normal(size=graph.readable.shape).astype(np.float32)
    values = np.round(values) if ties else values
    values[~graph.readable.numpy()] = np.nan
    coords = {"sender": list(map(str, graph.senders)), "port": list(map(str, graph.ports))}
    return xr.DataArray(values, dims=("sender", "port"), coords=coords)


def listed(scores):
    """[(score, sender, port)] in the order of the graph, edges alone."""
    return [
        (float(scores.values[s, p]), str(sender), str(port))
        for s, sender in enumerate(scores.sender.values)
        for p, port in enumerate(scores.port.values)
        if not np.isnan(scores.values[s, p])
    ]


def node_of(port):
    """The node of a port, from its name."""
    return port.rsplit(".", 1)[0] if port[-1] in "qkv" else port


def paths_only(edges):
    """Edges on a path from the embedding to the logits, by walking every path."""
    good = set()

    def walk(node, taken):
        if node == "logits":
            good.update(taken)
            return
        for edge in edges:
            if edge[0] == node:
                walk(node_of(edge[1]), (*taken, edge))

    walk("embed", ())
    return good


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("by", "rank"), [("magnitude", abs), ("value", float)])
def test_top_edges_are_the_first_of_all_edges_sorted(by, rank, ties):
    scores = made_scores(tiny_model("gpt2"), ties=ties)
    edges = listed(scores)
    for n in (0, 1, 7, 100, len(edges)):
        want = [edge[1:] for edge in sorted(edges, key=lambda edge: -rank(edge[0]))[:n]]
        got = top_edges(scores, n, by=by)
        assert set(got) == set(want)
        assert len(got) == n
        assert list(got) == [edge[1:] for edge in edges if edge[1:] in set(want)]


@pytest.mark.parametrize(("by", "rank"), [("magnitude", abs), ("value", float)])
def test_edges_above_a_threshold(by, rank):
    scores = made_scores(tiny_model("gpt_neox"), seed=1)
    assert edges_above(scores, 0.5, by=by) == tuple(e[1:] for e in listed(scores) if rank(e[0]) >= 0.5)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("by", "rank"), [("magnitude", abs), ("value", float)])
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_greedy_edges_equal_a_search_through_all_edges_each_time(family, by, rank, ties):
    scores = made_scores(tiny_model(family), seed=2, ties=ties)
    edges, within, want = listed(scores), {"logits"}, []
    for n in range(1, 80):
        open_ones = [e for e in edges if node_of(e[2]) in within and e[1:] not in want]
        best = max(open_ones, key=lambda edge: rank(edge[0]))
        want.append(best[1:])
        within.add(best[1])
        if n % 13 == 0:
            assert set(greedy_edges(scores, n, by=by)) == set(want)


def test_greedy_edges_all_lead_to_the_logits_and_may_run_out():
    scores = made_scores(tiny_model("llama"))
    every = listed(scores)
    assert len(greedy_edges(scores, len(every))) == len(every)
    into_logits = scores.copy()
    into_logits.values[1:, -1] = np.nan
    assert greedy_edges(into_logits, 50) == (("embed", "logits"),)


@pytest.mark.parametrize("share", [0.03, 0.06, 0.1])
def test_connected_equals_walking_every_path(share):
    model = tiny_model("gpt2")
    for seed in range(5):
        scores = made_scores(model, seed)
        edges = top_edges(scores, int(share * len(listed(scores))))
        got = connected(Graph.of(model), edges)
        assert set(got) == paths_only(edges)
        assert set(Choice(n_edges=len(edges)).of(scores)) == set(got)
        assert list(got) == [edge for edge in edges if edge in set(got)]


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_edges_on_no_path_change_nothing(family):
    model, prompts = tiny_model(family), made_prompts(SAME_LENGTH)
    edges = top_edges(made_scores(model, 3), 60)
    fewer = connected(Graph.of(model), edges)
    assert 0 < len(fewer) < len(edges)
    _, values = edge_values(model, prompts, [edges, fewer])
    np.testing.assert_allclose(values[0], values[1], atol=1e-5)


def test_a_hundred_thousand_edges_take_no_time():
    senders = ["embed", *(f"{k}.{h}" if h < 9 else f"mlp {k}" for k in range(30) for h in range(10))]
    ports = [
        port
        for node in senders[1:]
        for port in ([node] if node.startswith("mlp") else [f"{node}.{part}" for part in "qkv"])
    ]
    values = np.random.default_rng(0).normal(size=(len(senders), len(ports) + 1)).astype(np.float32)
    for column, port in enumerate(ports):
        values[senders.index(node_of(port)) :, column] = np.nan
    scores = xr.DataArray(
        values, dims=("sender", "port"), coords={"sender": senders, "port": [*ports, "logits"]}
    )
    assert np.isfinite(values).sum() > 100_000
    start = time.process_time()
    Choice(n_edges=50_000).of(scores)
    greedy_edges(scores, 50_000)
    assert time.process_time() - start < 5


def test_what_cannot_be_chosen_is_refused():
    scores = made_scores(tiny_model("gpt2"))
    with pytest.raises(UnknownName, match="ranking 'size'"):
        top_edges(scores, 3, by="size")
    with pytest.raises(UnknownName, match="did you mean greedy"):
        Choice(select="gredy")
    with pytest.raises(UnknownName, match="did you mean value"):
        Choice(by="valu")
    n_edges = len(listed(scores))
    for bad in (-1, n_edges + 1, True, 2.0):
        with pytest.raises(InvalidArgument, match=f"from 0 to {n_edges}, got {bad}"):
            top_edges(scores, bad)
    with pytest.raises(InvalidArgument, match="at least 0, got -1"):
        Choice(n_edges=-1)
    with pytest.raises(InvalidArgument, match="leave out n_edges"):
        Choice(n_edges=3, threshold=0.1)
    with pytest.raises(InvalidArgument, match="leave out n_edges and select"):
        Choice(select="greedy", threshold=0.1)
    with pytest.raises(InvalidArgument, match="dims sender and port, got node"):
        top_edges(xr.DataArray([1.0], dims=("node",)), 1)
