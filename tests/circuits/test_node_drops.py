"""What is left without one node, of the full model, of a circuit and for sets: against hooks, and by hand."""

from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import xarray as xr

import patchpoint as pp
import reference_pruning as slow
from patchpoint.circuits.ablation import ablate_nodes
from patchpoint.circuits.evaluate import evaluate
from patchpoint.circuits.node_drops import mean_drop, node_drops, top_drops
from patchpoint.circuits.node_pruning import node_pruning
from patchpoint.engine import Batch
from twins import RAGGED, SAME_LENGTH, made_prompts
from words import tiny_model

SETS = {
    "a head": ("1.2",),
    "three": ("mlp 1", "0.3", "2.0"),
    "all heads of one": ("1.0", "1.1", "1.2", "1.3"),
}


@cache
def prepared(family, pairs=SAME_LENGTH):
    model = tiny_model(family)
    return model, slow.answered(model, made_prompts(pairs))


def percent(model, prompts, ablation, removed):
    values_of = slow.stand_ins(model.hf, prompts, ablation)(())
    full = slow.mean_difference(model.hf, prompts, [], values_of)
    return 100 * slow.mean_difference(model.hf, prompts, removed, values_of) / full


@pytest.mark.parametrize(
    ("family", "ablation", "pairs"), [("gpt_neox", "mean", SAME_LENGTH), ("llama", "zero", RAGGED)]
)
def test_drops_from_the_full_model_from_a_circuit_and_together(family, ablation, pairs):
    model, prompts = prepared(family, pairs)
    circuit = node_pruning(model, prompts, threshold=5, ablation=ablation)
    drops = node_drops(model, prompts, circuit=circuit, sets=SETS, ablation=ablation)
    names = list(drops["node"].values)
    assert len(names) == 15
    assert 0 < len(circuit.nodes) < 15
    removed = [name for name in names if name not in circuit.nodes]
    for name in names:
        assert float(drops["full"].sel(node=name)) == pytest.approx(
            percent(model, prompts, ablation, [name]), abs=1e-3
        )
        if name in circuit.nodes:
            want = percent(model, prompts, ablation, [*removed, name])
            assert float(drops["circuit"].sel(node=name)) == pytest.approx(want, abs=1e-3)
        else:
            assert np.isnan(drops["circuit"].sel(node=name))
    for name, members in SETS.items():
        want = percent(model, prompts, ablation, members)
        assert float(drops["together"].sel(set=name)) == pytest.approx(want, abs=1e-3)
    assert drops.attrs["circuit_performance"] == pytest.approx(
        percent(model, prompts, ablation, removed), abs=1e-3
    )


def test_drops_are_the_knock_outs_over_the_full_metric():
    model, prompts = prepared("llama")
    drops, knocked = node_drops(model, prompts), ablate_nodes(model, prompts)
    assert list(drops) == ["full"]
    np.testing.assert_allclose(drops["full"], 100 * knocked / knocked.attrs["clean"], atol=1e-3)
    assert drops.attrs["full_metric"] == pytest.approx(knocked.attrs["clean"], abs=1e-5)
    for name in ("node", "kind", "layer", "head"):
        assert list(drops[name].values) == list(knocked[name].values)


def test_a_circuit_and_its_evaluation_agree():
    model, prompts = prepared("llama")
    circuit = node_pruning(model, prompts, threshold=5)
    drops = node_drops(model, prompts, circuit=circuit)
    performance = 100 * evaluate(circuit, model, prompts).performance.value
    assert drops.attrs["circuit_performance"] == pytest.approx(performance, abs=1e-3)
    tried = {step.name: step.value for step in circuit.steps}
    for name in circuit.nodes:
        assert float(drops["circuit"].sel(node=name)) == pytest.approx(tried[name], abs=1e-3)


def made_drops():
    return xr.Dataset(
        {
            "full": ("node", [90.0, 110.0, 40.0, 90.0, 20.0]),
            "circuit": ("node", [np.nan, 75.0, 30.0, 85.0, 10.0]),
        },
        coords={
            "node": ["0.0", "0.1", "1.0", "1.1", "mlp 0"],
            "kind": ("node", ["head", "head", "head", "head", "mlp"]),
        },
        attrs={"circuit_performance": 80.0},
    )


def rows(drops):
    return [(drop.rank, drop.node, drop.change) for drop in drops]


def test_tables_rank_the_nodes_that_are_needed_most():
    drops = made_drops()
    assert rows(top_drops(drops, top=3)) == [(1, "1.0", -60.0), (2, "0.0", -10.0), (3, "1.1", -10.0)]
    assert rows(top_drops(drops, "circuit")) == [(1, "1.0", -50.0), (2, "0.1", -5.0), (3, "1.1", 5.0)]
    assert rows(top_drops(drops, kind="mlp")) == [(1, "mlp 0", -80.0)]
    assert mean_drop(drops) == pytest.approx((-10 + 0 - 60 - 10) / 4)
    assert mean_drop(drops, kind="mlp") == -80


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (lambda: top_drops(made_drops(), "ful"), "unknown kind of drop 'ful'; did you mean full"),
        (lambda: top_drops(made_drops().drop_vars("circuit"), "circuit"), "unknown kind of drop 'circuit'"),
        (lambda: top_drops(made_drops(), kind="heads"), "unknown kind of node 'heads'; did you mean head"),
        (lambda: top_drops(made_drops(), top=0), "at least one row, got 0"),
        (lambda: mean_drop(made_drops(), kind="embed"), "unknown kind of node 'embed'"),
    ],
)
def test_wrong_tables_are_refused(asked, message):
    with pytest.raises(pp.PatchpointError, match=message):
        asked()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (partial(node_drops, sets={"a": ("3.0",)}), r"unknown node '3\.0'"),
        (partial(node_drops, sets={"a": ()}), "set 'a' has no nodes"),
        (partial(node_drops, ablation="maen"), "unknown ablation 'maen'"),
        (partial(node_drops, over="rol"), "unknown mean 'rol'"),
        (partial(node_drops, metric="kl"), "the full model's mean kl is"),
        (partial(node_drops, memory_gib=1e-6), "the budget is"),
    ],
)
def test_wrong_requests_are_refused(asked, message):
    with pytest.raises(pp.PatchpointError, match=message):
        asked(*prepared("llama"))


def test_r55_circuits_of_another_model_or_of_edges_are_refused():
    model, prompts = prepared("llama")
    circuit = node_pruning(model, prompts, threshold=5)
    with pytest.raises(pp.PatchpointError, match="was found in tiny-llama"):
        node_drops(*prepared("gpt2"), circuit=circuit)
    with pytest.raises(pp.PatchpointError, match="found with ablation='mean', got ablation='zero'"):
        node_drops(model, prompts, circuit=circuit, ablation="zero")
    of_edges = replace(circuit, edges=(("mlp 0", "1.0.q"),))
    with pytest.raises(pp.PatchpointError, match="need one of nodes"):
        node_drops(model, prompts, circuit=of_edges)


def test_r52_a_model_that_does_not_do_the_task_is_refused():
    model, prompts = prepared("llama")
    swapped = Batch(prompts.clean.tokens, prompts.incorrect_tokens, prompts.correct_tokens)
    with pytest.raises(pp.PatchpointError, match="the full model's mean logit_diff is -"):
        node_drops(model, replace(prompts, clean=swapped))
