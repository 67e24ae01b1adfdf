"""How often parts return, against counts by hand, and prompts resampled."""

from dataclasses import replace

import numpy as np
import pytest

from circuit_parts import drawn_prompts, edge_names, made_circuit, node_names
from patchpoint.circuits.stability import by_template, resampled_prompts, stability, stability_text
from patchpoint.errors import InvalidArgument
from words import tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


@pytest.fixture(scope="module")
def data(model):
    return drawn_prompts(model, 6, seed=1)


def finder(*circuits):
    """A search that finds these circuits one after the other."""
    waiting = list(circuits)
    return lambda prompts: waiting.pop(0)


def test_nodes_are_counted(model, data):
    found = [
        made_circuit(model, data, nodes=["0.1", "mlp 0", "2.3"], scores={"0.1": 1, "2.3": 4}),
        made_circuit(model, data, nodes=["0.1", "mlp 0"], scores={"0.1": 3, "2.3": 2}),
        made_circuit(model, data, nodes=["0.1", "1.0"], scores={"0.1": 5, "2.3": 0}),
    ]
    table = stability(finder(*found), [data] * 3)
    assert table.dims == ("node",)
    assert dict(zip(table["node"].values, table.values, strict=True)) == pytest.approx(
        {"0.1": 1, "mlp 0": 2 / 3, "1.0": 1 / 3, "2.3": 1 / 3}
    )
    assert list(table["node"].values) == ["0.1", "mlp 0", "1.0", "2.3"]
    assert table["mean_score"].values.tolist() == pytest.approx([3, 0, 0, 2])
    assert table["sd_score"].values.tolist() == pytest.approx([2, 0, 0, 2])
    assert table["found_by"].values.tolist() == ["0, 1, 2", "0, 1", "2", "0"]
    assert table.attrs["jaccard"] == pytest.approx((2 / 3 + 1 / 4 + 1 / 3) / 3)
    assert table.attrs["lowest_jaccard"] == pytest.approx(1 / 4)
    assert (table.attrs["searches"], table.attrs["method"]) == (3, "made")
    assert stability_text(table) == (
        "stability over 3 searches: 1 nodes in every one, 2 in at least half, 2 in only one, of 4 found; two searches "
        "agree by a Jaccard index of 0.42 on average, 0.25 at worst"
    )


def test_edges_are_counted(model, data):
    one, other = [("embed", "logits"), ("mlp 0", "1.2.q")], [("mlp 0", "1.2.q"), ("0.3", "mlp 0")]
    circuits = [made_circuit(model, data, edges=edges, scores={edges[0]: 2}) for edges in (one, other)]
    table = stability(finder(*circuits), {"names": data, "words": data})
    assert list(table["edge"].values) == ["mlp 0 -> 1.2.q", "embed -> logits", "0.3 -> mlp 0"]
    assert table.values.tolist() == [1, 0.5, 0.5]
    assert (list(table["sender"].values), list(table["port"].values)) == (
        ["mlp 0", "embed", "0.3"],
        ["1.2.q", "logits", "mlp 0"],
    )
    assert list(table["found_by"].values) == ["names, words", "names", "words"]
    assert table["mean_score"].values.tolist() == [1, 1, 0]


def test_the_search_sees_each_set_of_prompts(model, data):
    sets = [resampled_prompts(data, seed) for seed in range(3)]
    seen = []

    def find(prompts):
        seen.append(prompts)
        return made_circuit(model, prompts, nodes=[])

    table = stability(find, sets)
    assert all(a is b for a, b in zip(seen, sets, strict=True))
    assert (table.sizes["node"], table.attrs["jaccard"]) == (0, 1)


def test_resampled_prompts_are_prompts_drawn_again(model, data):
    drawn = resampled_prompts(data, 0)
    assert len(drawn) == len(data)
    assert set(drawn.clean_texts) < set(data.clean_texts)
    pairs = set(zip(data.clean.tokens, data.corrupt.tokens, data.correct_tokens, strict=True))
    assert set(zip(drawn.clean.tokens, drawn.corrupt.tokens, drawn.correct_tokens, strict=True)) <= pairs
    assert resampled_prompts(data, 0).clean_texts == drawn.clean_texts
    assert any(resampled_prompts(data, seed).clean_texts != drawn.clean_texts for seed in (1, 2))


def test_prompts_of_each_template_stand_apart(data):
    templates = ("a", "b", "a", "a", "b", "a")
    named = replace(data, metadata=tuple({"template": name} for name in templates))
    apart = by_template(named)
    for name, mine in apart.items():
        want = [text for text, other in zip(data.clean_texts, templates, strict=True) if other == name]
        assert list(mine.clean_texts) == want
    assert list(apart) == ["a", "b"]
    with pytest.raises(InvalidArgument, match=r"not of several templates \(found: a\)"):
        by_template(named.at([0, 2]))


def test_what_cannot_be_compared_is_refused(model, data):
    nodes, edges = (
        made_circuit(model, data, nodes=node_names(model)),
        made_circuit(model, data, edges=edge_names(model)),
    )
    with pytest.raises(InvalidArgument, match="some searches found nodes and others edges"):
        stability(finder(nodes, edges), [data, data])
    with pytest.raises(InvalidArgument, match="at least 2 sets of prompts, got 1"):
        stability(finder(nodes), [data])
    with pytest.raises(InvalidArgument, match="not of several templates"):
        by_template(data)
    assert not np.isnan(stability(finder(nodes, nodes), [data, data]).values).any()
