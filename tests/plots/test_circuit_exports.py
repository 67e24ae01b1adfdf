"""Circuits for other programs: every node and edge, with its numbers, read back."""

import json
import re

import networkx
import pytest

from made_circuits import edge_circuit, node_circuit
from patchpoint.errors import InvalidArgument
from patchpoint.plots.circuit_exports import EXPORTS, circuit_network, dot_text, graphml_text, json_text
from patchpoint.plots.circuit_files import draw_circuits
from patchpoint.plots.circuit_looks import STUDY

SMALL = {"n_layers": 3, "n_heads": 2}
EDGES = {
    ("embed", "0.1.v"): 0.5,
    ("0.1", "1.0.q"): -2.0,
    ("1.0", "mlp 1"): float("nan"),
    ("mlp 1", "logits"): 1.0,
}


def same(one, other):
    return dict(one.nodes(data=True)) == dict(other.nodes(data=True)) and list(one.edges(data=True)) == list(
        other.edges(data=True)
    )


def test_the_network_has_ports_that_lead_to_their_heads():
    network = circuit_network([edge_circuit(EDGES)], **SMALL)
    edges = {(a, b): values for a, b, values in network.edges(data=True)}
    assert {edge for edge, values in edges.items() if values["kind"] == "edge"} == set(EDGES)
    assert {edge for edge, values in edges.items() if values["kind"] == "port"} == {
        ("0.1.v", "0.1"),
        ("1.0.q", "1.0"),
    }
    assert edges[("0.1", "1.0.q")]["score"] == -2.0
    assert edges[("0.1", "1.0.q")]["share"] == -1.0
    assert "score" not in edges[("1.0", "mlp 1")]
    assert networkx.has_path(network, "embed", "logits")
    assert network.nodes["1.0.q"]["part"] == "q"
    assert (network.nodes["mlp 1"]["layer"], network.nodes["mlp 1"]["head"]) == (1, -1)
    merged = circuit_network([edge_circuit(EDGES)], ports=False, **SMALL)
    assert ("0.1", "1.0") in merged.edges
    assert "1.0.q" not in merged


def test_several_circuits_say_which_of_them_have_a_part():
    both = [edge_circuit(EDGES, task="a"), edge_circuit({("mlp 1", "logits"): 4.0}, task="b")]
    network = circuit_network(both, **SMALL)
    assert network.edges["mlp 1", "logits"]["circuits"] == "a; b"
    assert network.edges["mlp 1", "logits"]["share"] == pytest.approx((0.5 + 1) / 2)
    assert "score" not in network.edges["mlp 1", "logits"]
    assert network.nodes["0.1"]["circuits"] == "a"


def test_graphml_and_json_read_back_as_the_same_network(tmp_path):
    circuits = [edge_circuit(EDGES, task="a\x00<&"), node_circuit({"2.1": 0.25}, {"2.1", "mlp 1"}, task="b")]
    network = circuit_network(circuits, **SMALL)
    path = draw_circuits(circuits, tmp_path / "c.graphml", ports=True, **SMALL)
    assert same(networkx.read_graphml(path), network)
    assert same(networkx.node_link_graph(json.loads(json_text(circuits, **SMALL)), edges="edges"), network)
    assert path.read_text(encoding="utf-8") == graphml_text(circuits, **SMALL)


def test_dot_says_every_node_and_edge_with_colour_width_and_dash():
    text = dot_text([edge_circuit(EDGES, task="numerals")], **SMALL)
    edges = re.findall(r'^  "([^"]+)" -> "([^"]+)" \[(.*)\];$', text, re.M)
    assert {(a, b) for a, b, said in edges if "arrowhead" not in said} == set(EDGES)
    styles = {(a, b): said for a, b, said in edges}
    assert "style=dashed" in styles["0.1", "1.0.q"]
    assert "style=solid" in styles["mlp 1", "logits"]
    assert "not scored" in styles["1.0", "mlp 1"]
    widths = {
        edge: float(re.search(r"penwidth=([\d.]+)", said)[1])
        for edge, said in styles.items()
        if edge in EDGES
    }
    assert sorted(widths, key=widths.get) == [
        ("1.0", "mlp 1"),
        ("embed", "0.1.v"),
        ("mlp 1", "logits"),
        ("0.1", "1.0.q"),
    ]
    assert f'fillcolor="{STUDY[(0,)][0]}"' in text
    assert text.count("{") == text.count("}")
    shared = dot_text([edge_circuit(EDGES, task='say "x"\\'), edge_circuit(EDGES, task="b")], **SMALL)
    assert 'say \\"x\\"\\\\' in shared


@pytest.mark.parametrize("name", EXPORTS)
def test_exports_refuse_parts_outside_of_the_model(name):
    with pytest.raises(InvalidArgument, match="outside"):
        EXPORTS[name]([edge_circuit(EDGES)], n_layers=1, n_heads=2)
