"""CPR and CMD, against a case worked by hand and against graph runs one by one."""

import numpy as np
import pytest

import patchpoint as pp
from circuit_parts import drawn_prompts, edge_names, made_circuit, node_names, telling_prompts
from patchpoint.circuits.curve import SHARES, FaithfulnessCurve, faithfulness_curves
from patchpoint.circuits.evaluate import evaluate
from patchpoint.circuits.evaluation import Evaluation
from patchpoint.engine import graph_run
from patchpoint.errors import InvalidArgument, ResultsError
from words import tiny_model


def evaluation(full, circuit, empty):
    return Evaluation(np.array([full, full]), np.array([circuit, circuit]), np.array([empty, empty]))


def test_the_areas_are_those_worked_by_hand():
    """Full 3, empty 1; circuits at 0.1, 0.5 and 1 of all edges reach 1.5, 4 and 3: f = 0.25, 1.5, 1.

    Under f: 0.4 * (0.25 + 1.5) / 2 + 0.5 * (1.5 + 1) / 2 = 0.35 + 0.625 = 0.975.
    Under |1 - f| = 0.75, 0.5, 0: 0.4 * 1.25 / 2 + 0.5 * 0.5 / 2 = 0.25 + 0.125 = 0.375.
    """
    curve = FaithfulnessCurve(
        (0.1, 0.5, 1.0), (1, 5, 10), tuple(evaluation(3, c, 1) for c in (1.5, 4, 3)), "value"
    )
    assert curve.faithfulness.tolist() == [0.25, 1.5, 1.0]
    assert curve.under == pytest.approx(0.975, abs=1e-12)
    assert curve.from_one == pytest.approx(0.375, abs=1e-12)


def test_a_circuit_faithful_at_every_size_has_the_areas_of_the_shares():
    curve = FaithfulnessCurve(SHARES, tuple(range(10)), tuple(evaluation(2, 2, 0) for _ in SHARES), "value")
    assert (curve.under, curve.from_one) == (pytest.approx(0.999), 0)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_each_size_keeps_the_edges_of_the_largest_scores(family):
    model = tiny_model(family)
    data = telling_prompts(model, 4, seed=1)
    edges = edge_names(model)
    drawn = np.random.default_rng(2).normal(size=len(edges)).astype(np.float32)
    circuit = made_circuit(model, data, edges=edges[:3], scores=dict(zip(edges, drawn, strict=True)))
    shares = (0.01, 0.3, 1.0)
    curves = faithfulness_curves(circuit, model, data, shares=shares)
    clean, corrupt = model.run(data.clean), model.run(data.corrupt)
    ends = [graph_run(clean, corrupt, kept).values.numpy().mean() for kept in (edges, [])]
    for curve, ranks in ((curves.value, drawn), (curves.magnitude, np.abs(drawn))):
        for share, n_kept, f in zip(shares, curve.n_kept, curve.faithfulness, strict=True):
            assert n_kept == int(share * len(edges))
            kept = [edges[i] for i in np.argsort(-ranks)[:n_kept]]
            alone = graph_run(clean, corrupt, kept).values.numpy().mean()
            assert f == pytest.approx((alone - ends[1]) / (ends[0] - ends[1]), abs=1e-4)
        assert curve.faithfulness[-1] == pytest.approx(1, abs=1e-6)
    assert curves.value.faithfulness[1] != pytest.approx(curves.magnitude.faithfulness[1], abs=1e-3)
    assert (curves.cpr, curves.cmd) == (curves.value.under, curves.magnitude.from_one)
    assert str(curves).startswith(f"CPR {curves.cpr:.3f}, CMD {curves.cmd:.3f}")


def test_nodes_have_a_curve_too():
    model = tiny_model("llama")
    data = telling_prompts(model, 4, seed=3)
    names = node_names(model)
    scores = {name: number for number, name in enumerate(names, start=-4)}
    circuit = made_circuit(model, data, nodes=names[:2], scores=scores)
    curves = faithfulness_curves(circuit, model, data, shares=(0.4, 1.0))
    for curve, kept in ((curves.value, names[-6:]), (curves.magnitude, names[-6:])):
        assert curve.n_kept == (6, 15)
        want = evaluate(made_circuit(model, data, nodes=kept), model, data).faithfulness.value
        assert curve.faithfulness[0] == pytest.approx(want, abs=1e-5)


def test_parts_without_a_score_come_last():
    model = tiny_model("gpt2")
    data = telling_prompts(model, 3, seed=4)
    names = node_names(model)
    circuit = made_circuit(model, data, nodes=[], scores=dict.fromkeys(names, -1.0))
    circuit.scores.loc[{"node": names[:8]}] = np.nan
    curves = faithfulness_curves(circuit, model, data, shares=(0.5, 1.0))
    want = evaluate(made_circuit(model, data, nodes=names[8:]), model, data).faithfulness.value
    assert curves.value.faithfulness.tolist() == pytest.approx([want, 1.0], abs=1e-5)
    assert curves.magnitude.faithfulness.tolist() == pytest.approx([want, 1.0], abs=1e-5)


def test_a_curve_over_nothing_is_flagged():
    model = tiny_model("gpt2")
    data = drawn_prompts(model, 12, seed=5)
    circuit = made_circuit(model, data, nodes=[])
    assert "not to be relied on" in str(faithfulness_curves(circuit, model, data))


@pytest.mark.parametrize("shares", [(), (1.0,), (0.5, 0.2), (0.0, 1.0), (0.5, 1.5), (0.5, float("nan"))])
def test_shares_rise_within_0_and_1(shares):
    model = tiny_model("gpt2")
    data = drawn_prompts(model, 2, seed=6)
    with pytest.raises(InvalidArgument, match="shares must be"):
        faithfulness_curves(made_circuit(model, data, nodes=[]), model, data, shares=shares)


def test_a_circuit_of_another_model_has_no_curve():
    model, other = tiny_model("gpt2"), tiny_model("llama")
    data = drawn_prompts(model, 2, seed=7)
    with pytest.raises(ResultsError, match="tiny-gpt2"):
        faithfulness_curves(made_circuit(model, data, nodes=[]), other, data)
    assert issubclass(ResultsError, pp.PatchpointError)
