"""Pictures of circuits: where parts stand, what width, colour, dash and letters say."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex

from figure_parts import caption_of, outside
from made_circuits import edge_circuit, node_circuit, part_names
from patchpoint.errors import InvalidArgument, UnknownName
from patchpoint.plots import circuit_graph
from patchpoint.plots.circuit_files import draw_circuits, formats_of
from patchpoint.plots.circuit_graph import circuit_figure
from patchpoint.plots.circuit_layout import Layout
from patchpoint.plots.circuit_looks import LOWERS, RAISES, STUDY
from patchpoint.plots.circuit_page import circuit_html
from patchpoint.plots.circuit_parts import node_of, parts_of, shape_of
from patchpoint.plots.save import save

SMALL = {"n_layers": 3, "n_heads": 2}
EDGES = {
    ("embed", "0.1.v"): 0.5,
    ("0.1", "1.0.q"): -2.0,
    ("0.1", "1.0.k"): 1.0,
    ("mlp 0", "1.0.q"): 0.25,
    ("1.0", "mlp 1"): float("nan"),
    ("mlp 1", "logits"): 1.0,
}


def boxes(figure):
    """By text: the box that a node or port is drawn in, and its place."""
    return {
        text.get_text(): (text.get_bbox_patch(), text.get_position())
        for text in figure.axes[0].texts
        if text.get_bbox_patch() is not None
    }


def curves(figure):
    """The edges as (start, end), width in points, colour, dashed."""
    (found,) = [
        c
        for c in figure.axes[0].collections
        if isinstance(c, PathCollection) and len(c.get_paths()) > 0 and len(c.get_paths()[0].vertices) == 4
    ]
    return [
        (
            tuple(path.vertices[0]),
            tuple(path.vertices[-1]),
            width,
            to_hex(colour),
            style[1] is not None and len(style[1]) > 0,
        )
        for path, width, colour, style in zip(
            found.get_paths(),
            found.get_linewidths(),
            found.get_edgecolors(),
            found.get_linestyles(),
            strict=True,
        )
    ]


def legend_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_layers_rise_and_mlps_have_a_lane_of_their_own():
    drawn = boxes(circuit_figure([edge_circuit(EDGES)], **SMALL))
    places = {name: place for name, (_, place) in drawn.items()}
    assert list(places) == ["embed", "0.1", "MLP 0", "1.0", "MLP 1", "logits"]
    heights = [y for _, y in places.values()]
    assert heights == sorted(heights)
    assert places["0.1"][0] == 1
    assert places["1.0"][0] == 0
    assert places["MLP 0"][0] == places["MLP 1"][0] > 1
    every = [layout_place(name) for name in part_names(3, 2)[0]]
    assert len(set(every)) == len(every)


def layout_place(name):
    return Layout(3, 2, True).place(node_of(name))


def test_edges_go_from_sender_to_receiver_with_width_hue_and_dash():
    found = {
        (start, end): rest for start, end, *rest in curves(circuit_figure([edge_circuit(EDGES)], **SMALL))
    }
    place = Layout(3, 2, False).place
    at = {name: place(node_of(name)) for name in ("embed", "0.1", "1.0", "mlp 0", "mlp 1", "logits")}
    assert set(found) == {
        (at["embed"], at["0.1"]),
        (at["0.1"], at["1.0"]),
        (at["mlp 0"], at["1.0"]),
        (at["1.0"], at["mlp 1"]),
        (at["mlp 1"], at["logits"]),
    }
    strong, half = found[at["0.1"], at["1.0"]], found[at["mlp 1"], at["logits"]]
    assert strong[1:] == [LOWERS, True]
    assert half[1:] == [RAISES, False]
    span = circuit_graph.THICKEST - circuit_graph.THINNEST
    assert strong[0] == pytest.approx(circuit_graph.THICKEST)
    assert half[0] == pytest.approx(circuit_graph.THINNEST + span / 2)
    unscored = found[at["1.0"], at["mlp 1"]]
    assert unscored[0] == pytest.approx(circuit_graph.THINNEST)
    assert unscored[1] not in (RAISES, LOWERS)


def test_ports_stand_apart_below_their_head_and_are_merged_by_magnitude_without():
    apart = circuit_figure([edge_circuit(EDGES)], ports=True, **SMALL)
    assert len(curves(apart)) == len(EDGES)
    layout = Layout(3, 2, True)
    ends = {end for _, end, *_ in curves(apart)}
    q, k = layout.entry("1.0.q"), layout.entry("1.0.k")
    assert {q, k, layout.entry("0.1.v")} < ends
    assert q[0] < k[0]
    assert q[1] < layout.place(node_of("1.0"))[1]
    merged = parts_of([edge_circuit(EDGES)], ports=False, **SMALL)
    assert {(e.sender, e.receiver): e.scores for e in merged.edges}[("0.1", "1.0")] == (-2.0,)


def test_an_edge_within_a_lane_bows_out_of_the_nodes_between():
    layout = Layout(9, 2, False)
    start, *inner, end = layout.curve("mlp 0", "mlp 8")
    assert start[0] == end[0]
    assert all(x > start[0] for x, _ in inner)
    assert layout.ends[1][0] > max(x for x, _ in inner)


def test_node_circuits_show_kept_nodes_filled_and_all_others_as_dots():
    circuit = node_circuit({"0.1": 2.0, "mlp 1": -1.0, "2.0": 0.3}, {"0.1", "mlp 1"})
    figure = circuit_figure([circuit], **SMALL)
    drawn = boxes(figure)
    assert set(drawn) == {"0.1", "MLP 1"}
    assert to_hex(drawn["0.1"][0].get_edgecolor()) == RAISES
    assert drawn["0.1"][0].get_linewidth() > drawn["MLP 1"][0].get_linewidth()
    assert to_hex(drawn["MLP 1"][0].get_edgecolor()) == LOWERS
    assert drawn["MLP 1"][0].get_linestyle() == "--"
    (dots,) = [c for c in figure.axes[0].collections if isinstance(c, PathCollection)]
    assert len(dots.get_offsets()) == 3 * (2 + 1) - 2


@pytest.mark.parametrize("tasks", [("numerals", "numwords", "months"), ("months", "numerals", "numwords")])
def test_shared_parts_have_the_study_s_colours_whatever_the_order(tasks):
    kept = {
        "numerals": {"0.0", "1.0", "2.0", "2.1"},
        "numwords": {"0.1", "1.0", "1.1", "2.1"},
        "months": {"mlp 0", "1.1", "2.0", "2.1"},
    }
    figure = circuit_figure([node_circuit({}, kept[task], task=task) for task in tasks], **SMALL)
    fills = {text.split()[0]: to_hex(box.get_facecolor()) for text, (box, _) in boxes(figure).items()}
    want = {
        "0.0": (0,),
        "0.1": (1,),
        "MLP": (2,),
        "1.0": (0, 1),
        "1.1": (1, 2),
        "2.0": (0, 2),
        "2.1": (0, 1, 2),
    }
    assert fills == {name: STUDY[members][0] for name, members in want.items()}
    marked = {text for text in boxes(figure) if text.startswith("1.0")}
    letters = "".join(sorted("ABC"[tasks.index(task)] for task in ("numerals", "numwords")))
    assert marked == {f"1.0 {letters}"}
    assert any(text.endswith("all 3") for text in legend_of(figure))


def test_edges_are_merged_by_name_before_they_are_coloured():
    """A port of one circuit and another port of the same head in the other: one shared edge, black."""
    one = edge_circuit({("embed", "0.0.q"): 1.0, ("0.0", "logits"): 1.0}, task="a")
    two = edge_circuit({("embed", "0.0.k"): -3.0}, task="b")
    drawn = {end: rest for _, end, *rest in curves(circuit_figure([one, two], **SMALL))}
    place = Layout(3, 2, False).place
    assert drawn[place(node_of("0.0"))][1] == "#000000"
    assert drawn[place(node_of("logits"))][1] == STUDY[(0,)][1]
    assert len(curves(circuit_figure([one, two], ports=True, **SMALL))) == 3
    shares = {(e.sender, e.receiver): e.share for e in parts_of([one, two], ports=False, **SMALL).edges}
    assert shares[("embed", "0.0")] == pytest.approx(0.0)


def test_many_circuits_are_told_apart():
    tasks = [f"task {n}" for n in range(5)]
    kept = [{"0.0", f"{n % 3}.1"} for n in range(5)]
    figure = circuit_figure(
        [node_circuit({}, mine, task=task) for task, mine in zip(tasks, kept, strict=True)], **SMALL
    )
    assert {"0.0 ABCDE", "0.1 AD", "1.1 BE", "2.1 C"} == set(boxes(figure))
    assert {"ABCDE all 5", "2 of 5", "C task 2"} <= set(legend_of(figure))


def test_caption_says_how_each_circuit_was_found():
    said = caption_of(
        circuit_figure([edge_circuit(EDGES, task="ioi"), node_circuit({}, {"0.0"}, task="other")], **SMALL)
    )
    for text in (
        "A: by-hand-edges circuit of ioi in tiny",
        "B: by-hand circuit of other",
        "12 prompts",
        "corruption",
        "swapped",
        "seed 3",
        "threshold=20.0",
    ):
        assert text in said


def test_only_so_many_edges_are_drawn_and_the_caption_says_so(monkeypatch):
    monkeypatch.setattr(circuit_graph, "MOST_EDGES", 3)
    figure = circuit_figure([edge_circuit(EDGES)], **SMALL)
    assert len(curves(figure)) == 3
    assert [round(width, 2) for *_, width, _, _ in curves(figure)] == sorted(
        round(width, 2) for *_, width, _, _ in curves(figure)
    )
    assert "strongest 3 of 5 edges" in caption_of(figure)


def test_a_circuit_as_large_as_smollm2_fits_its_page():
    senders, ports = part_names(30, 9)
    draw = np.random.default_rng(0)
    kept = {}
    while len(kept) < 200:
        sender, port = draw.choice(senders[:150]), draw.choice(ports[500:])
        kept[str(sender), str(port)] = float(draw.normal())
    figure = circuit_figure([edge_circuit(kept, n_layers=30, n_heads=9)], n_layers=30, n_heads=9)
    assert outside(figure) == []
    size = figure.get_size_inches()
    assert size[0] < 9
    assert size[1] < 17


def test_no_circuit_and_parts_outside_of_the_model_are_refused():
    with pytest.raises(InvalidArgument, match="got 0 circuits"):
        circuit_figure([], **SMALL)
    with pytest.raises(InvalidArgument, match=r"node 2\.0 is outside a model of 2 layers with 2 heads"):
        circuit_figure([node_circuit({}, {"2.0"})], n_layers=2, n_heads=2)
    with pytest.raises(InvalidArgument, match="outside"):
        circuit_figure([node_circuit({}, {"2.1"})], n_layers=3, n_heads=1)


def test_an_empty_circuit_is_drawn_too():
    figure = circuit_figure([node_circuit({}, set()), edge_circuit({})], **SMALL)
    assert boxes(figure) == {}


def test_the_size_of_the_model_is_read_from_scores():
    assert shape_of([edge_circuit(EDGES)]) == (3, 2)
    assert shape_of([node_circuit({}, {"0.0"}, n_layers=5, n_heads=4)]) == (5, 4)


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_equal_circuits_give_equal_files(tmp_path, suffix):
    paths = [tmp_path / f"{n}.{suffix}" for n in range(2)]
    for path in paths:
        save(circuit_figure([edge_circuit(EDGES)], **SMALL), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_formats_are_checked_by_name(tmp_path):
    assert formats_of("png, html,png") == ("png", "html")
    assert formats_of("none") == ()
    with pytest.raises(UnknownName, match="unknown picture format 'grapml'; did you mean graphml"):
        formats_of("grapml")
    with pytest.raises(UnknownName):
        draw_circuits([edge_circuit(EDGES)], tmp_path / "x.gif", **SMALL)


def page_data(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def test_the_page_holds_every_edge_and_its_numbers_and_fetches_nothing():
    text = circuit_html([edge_circuit(EDGES)], ports=True, **SMALL)
    data = page_data(text)
    assert [node["name"] for node in data["nodes"]] == ["embed", "0.1", "mlp 0", "1.0", "mlp 1", "logits"]
    assert {tuple(edge["ends"]) for edge in data["edges"]} == {
        ("embed", "0.1"),
        ("0.1", "1.0"),
        ("mlp 0", "1.0"),
        ("1.0", "mlp 1"),
        ("mlp 1", "logits"),
    }
    assert max(edge["size"] for edge in data["edges"]) == 1
    assert any("score -2" in edge["hover"] and edge["dash"] == "dash" for edge in data["edges"])
    assert [port["name"] for port in data["ports"]] == ["0.1", "1.0", "1.0"]
    assert "<td>0.1</td><td>1.0.q</td><td>-2</td>" in text
    assert not re.search(r'(?:src|href)\s*=\s*"https?:', text.split("<script>")[0])
    assert "default-src 'none'" in text


def test_hostile_names_stay_text():
    hostile = "</script><script>alert(1)//<b>$x$"
    text = circuit_html([node_circuit({"0.0": 1.0}, {"0.0"}, task=hostile)], **SMALL)
    assert "<script>alert(1)" not in text
    hover = page_data(text)["nodes"][0]["hover"]
    assert "&lt;/script&gt;" in hover
    assert "$" not in hover
    save_free = circuit_figure([node_circuit({}, {"0.0"}, task="東 $x$ <b>")], **SMALL)
    assert "$x$" in caption_of(save_free)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node to read the page's script")
def test_the_slider_hides_weak_edges_and_a_click_leaves_a_node_s_own(tmp_path):
    text = circuit_html([edge_circuit(EDGES)], **SMALL)
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1]
    script = text.rsplit("<script>", 1)[1].split("</script>")[0]
    stage = """
const parts = {}, heard = {};
const part = id => parts[id] ??= {id, value: "0", textContent: "", addEventListener(name, f) { heard[id + name] = f; },
                                  on(name, f) { heard[name] = f; }};
part("data").textContent = DATA;
globalThis.document = {getElementById: part};
globalThis.location = {hash: "#least=0.3"};
globalThis.history = {replaceState(a, b, hash) { location.hash = hash; }};
globalThis.window = {addEventListener() {}};
const seen = [];
globalThis.Plotly = {react(plot, traces, layout) { seen.push([layout.shapes.length, location.hash]); }};
"""
    acts = """
part("least").value = "0"; heard["leastinput"]();
heard["plotly_click"]({points: [{curveNumber: 2, pointNumber: 1}]});
heard["wholeclick"]();
console.log(JSON.stringify(seen));
"""
    file = tmp_path / "page.js"
    file.write_text(
        f"const DATA = {json.dumps(data)};\n{stage}{script.replace(chr(34) + 'use strict' + chr(34), '')}{acts}"
    )
    done = subprocess.run(["node", file], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == [[2, "#least=0.3"], [5, "#"], [2, "#node=0.1"], [5, "#"]]
