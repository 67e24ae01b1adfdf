"""Attribution of nodes: sign and choice; the gradients themselves are tested with the engine."""

import numpy as np
import pytest

from patchpoint.circuits.node_attribution import attribution_patching
from patchpoint.circuits.patching import patch_heads
from patchpoint.engine import attribute_nodes
from patchpoint.errors import InvalidArgument, UnknownName
from twins import RAGGED, SAME_LENGTH, made_prompts
from words import tiny_model


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_scores_are_what_patching_would_cost(family, steps):
    model, prompts = tiny_model(family), made_prompts(RAGGED)
    clean, corrupt = model.run(prompts.clean), model.run(prompts.corrupt)
    want = -attribute_nodes(clean, corrupt, steps=steps).values.mean(1)[1:]
    circuit = attribution_patching(model, prompts, steps=steps)
    np.testing.assert_allclose(circuit.scores.values, want, rtol=1e-5, atol=1e-7)
    assert circuit.scores.dtype == np.float32
    assert list(circuit.scores.node.values[3:6]) == ["0.3", "mlp 0", "1.0"]


def test_estimates_go_with_exact_patching():
    model, prompts = tiny_model("gpt2"), made_prompts(SAME_LENGTH)
    exact = patch_heads(model, prompts)
    costs = exact.attrs["clean"] - exact.values.flatten()
    heads = [name for name in attribution_patching(model, prompts).scores.node.values if "mlp" not in name]
    estimates = attribution_patching(model, prompts).scores.sel(node=heads).values
    assert np.corrcoef(costs, estimates)[0, 1] > 0.9


@pytest.mark.parametrize(("by", "rank"), [("magnitude", abs), ("value", float)])
def test_nodes_are_chosen_by_their_scores(by, rank):
    model, prompts = tiny_model("llama"), made_prompts(SAME_LENGTH)
    circuit = attribution_patching(model, prompts, n_nodes=4, by=by)
    scores = dict(zip(circuit.scores.node.values, circuit.scores.values.tolist(), strict=True))
    best = sorted(scores, key=lambda node: -rank(scores[node]))[:4]
    assert circuit.nodes == tuple(node for node in scores if node in best)
    assert circuit.edges is None
    above = attribution_patching(model, prompts, threshold=rank(scores[best[2]]), by=by)
    assert set(above.nodes) == set(best[:3])
    assert len(attribution_patching(model, prompts).nodes) == 1


def test_bad_input_is_refused():
    model, prompts = tiny_model("gpt2"), made_prompts(SAME_LENGTH)
    with pytest.raises(InvalidArgument, match="from 0 to 15, got 16"):
        attribution_patching(model, prompts, n_nodes=16)
    with pytest.raises(InvalidArgument, match="leave out n_nodes"):
        attribution_patching(model, prompts, n_nodes=2, threshold=0.1)
    with pytest.raises(UnknownName, match="ranking"):
        attribution_patching(model, prompts, by="size")
