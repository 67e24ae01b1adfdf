import json
import shutil
import subprocess
from html.parser import HTMLParser

import matplotlib
import numpy as np
import plotly.graph_objects
import plotly.offline
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex

from patchpoint.errors import InvalidArgument
from patchpoint.plots import facts_page, trace_html

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "\n",
    "\t",
    " x",
    "</s>",
    "<b>",
    "<br>",
    "</script><script>alert(1)//",
    "&lt;",
)
ADDRESSES = {"src", "href", "srcset", "data", "action", "poster", "background"}


class Page(HTMLParser):
    """Elements, attributes and texts as a browser would see them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.scripts, self.cells, self.options = [], [], [], [], []
        self.inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.inside = tag
        self.tags.append(tag)
        self.attributes += attrs
        for name, held in (("script", self.scripts), ("option", self.options)):
            if tag == name:
                held.append("")
        if tag in ("th", "td"):
            self.cells.append("")

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.inside == "option":
            self.options[-1] += data
        elif self.inside in ("th", "td"):
            self.cells[-1] += data

    @property
    def views(self):
        return json.loads(self.scripts[1])


@pytest.fixture
def small_script(monkeypatch):
    """Pages without the five megabytes of plotly.js."""
    monkeypatch.setattr(plotly.offline, "get_plotlyjs", lambda: "/* plotly.js */")


def test_the_page_holds_plotly_and_fetches_nothing(trace_picture, role_picture):
    for text in (trace_html(trace_picture()), facts_page([trace_picture()] * 3, role_picture())):
        page = Page(text)
        assert text.count("plotly.js v") == 1
        assert "<script src=" not in text
        assert "cdn" not in text.lower()
        assert "link" not in page.tags
        assert not ADDRESSES & {name for name, _ in page.attributes}
        assert "@import" not in text.split("<script>")[0]
        policy = next(value for name, value in page.attributes if name == "content")
        assert policy.startswith("default-src 'none'; script-src 'unsafe-inline';")
        assert len(page.scripts) == 3


def test_the_heatmap_is_a_valid_plotly_figure_of_the_values(trace_picture, small_script):
    picture = trace_picture()
    (view,) = Page(trace_html(picture)).views
    figure = plotly.graph_objects.Figure(data=view["data"], layout=view["layout"])
    (trace,) = figure.data
    assert trace.type == "heatmap"
    np.testing.assert_allclose(np.array(trace.z, dtype=float), picture.values, rtol=1e-5)
    limit = np.abs(picture.values).max()
    assert (trace.zmin, trace.zmax) == (-limit, limit)
    assert trace.colorbar.title.text == "indirect effect on p(␣Paris)"


def test_colours_are_explicit_stops_as_in_the_figures(trace_picture, small_script):
    (view,) = Page(trace_html(trace_picture())).views
    stops = view["data"][0]["colorscale"]
    assert [place for place, _ in stops] == pytest.approx(np.linspace(0, 1, 11))
    assert [colour for _, colour in stops] == [
        to_hex(matplotlib.colormaps["RdBu_r"](x)) for x in np.linspace(0, 1, 11)
    ]


def test_r47_axes_are_numeric_so_tokens_of_equal_text_keep_separate_rows(trace_picture, small_script):
    page = Page(trace_html(trace_picture((" the", " the", " the"), 12, subject_span=(1, 2))))
    (view,) = page.views
    assert view["data"][0]["y"] == [0, 1, 2]
    assert view["data"][0]["x"] == list(range(12))
    down, across = view["layout"]["yaxis"], view["layout"]["xaxis"]
    assert (down["type"], across["type"]) == ("linear", "linear")
    assert down["range"] == [2.5, -0.5]
    assert down["tickvals"] == [0, 1, 2]
    assert down["ticktext"] == ["␣the", "<b>␣the*</b>", "␣the"]
    assert (across["tickvals"], across["ticktext"]) == ([0, 5, 10], ["0", "5", "10"])
    assert [cell for cell in page.cells if "token" in cell] == [
        "␣the (token 0)",
        "␣the* (token 1)",
        "␣the (token 2)",
    ]


def test_r60_token_text_is_shown_and_never_run(trace_picture, small_script):
    text = trace_html(
        trace_picture(HOSTILE, 6, subject_span=None, answer=HOSTILE[0], model=HOSTILE[7], noise=HOSTILE[0])
    )
    page = Page(text)
    assert not {"img", "b", "s"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert len(page.scripts) == 3
    shown = [cell for cell in page.cells if "token" in cell]
    assert shown == [
        "<img␣src=x␣onerror=alert(1)> (token 0)",
        *("↵ (token 1)", "⇥ (token 2)", "␣x (token 3)", "</s> (token 4)", "<b> (token 5)", "<br> (token 6)"),
        "</script><script>alert(1)// (token 7)",
        "&lt; (token 8)",
    ]
    assert "<" not in page.scripts[1]
    (view,) = page.views
    assert view["layout"]["yaxis"]["ticktext"][4:7] == ["&lt;/s&gt;", "&lt;b&gt;", "&lt;br&gt;"]
    for label in [*view["names"], view["title"], *view["layout"]["yaxis"]["ticktext"], view["more"][0][0]]:
        assert "<" not in label


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(exclude_categories=())), min_size=1, max_size=8))
def test_any_text_leaves_the_page_intact(trace_picture, small_script, tokens):
    picture = trace_picture(
        tuple(tokens), 2, prompt=tokens[0], answer=tokens[-1], model=tokens[0], noise=tokens[-1]
    )
    text = facts_page([picture, picture])
    text.encode("utf-8")
    page = Page(text)
    plain = Page(facts_page([trace_picture(("a",) * len(tokens), 2)] * 2))
    assert page.tags == plain.tags
    ticks = page.views[0]["layout"]["yaxis"]["ticktext"]
    assert all("<" not in tick.removeprefix("<b>").removesuffix("</b>") for tick in ticks)
    assert len(ticks) == len(tokens)


def test_the_table_holds_every_value_with_its_error(trace_picture, small_script):
    picture = trace_picture(("The", " end"), 3, standard_error=np.full((2, 3), 0.25))
    text = trace_html(picture)
    cells = Page(text).cells
    assert text.index("<details>") < text.index("<table>") < text.index("</details>")
    assert cells[:5] == ["", "0", "1", "2", "The* (token 0)"]
    assert cells[5:8] == [f"{v:.4g} ± 0.25" for v in picture.values[0]]
    assert "indirect effect on p(␣Paris) ± standard error" in text


def test_values_not_measured_are_null_and_said_so(trace_picture, small_script):
    values = trace_picture(("a", "b"), 3).values.copy()
    values[1, 2] = np.nan
    page = Page(trace_html(trace_picture(("a", "b"), 3, values=values)))
    assert page.views[0]["data"][0]["z"][1][2] is None
    assert page.cells[-1] == "not measured"


def test_the_caption_is_in_the_page(trace_picture, small_script):
    text = trace_html(trace_picture())
    for words in (
        "smollm2-135m",
        "The Eiffel Tower is in the city of",
        "␣Paris",
        "s3",
        "10 samples",
        "seed 7",
    ):
        assert words in text.split("<script>")[0]


def test_the_list_starts_with_the_average_by_role(trace_picture, role_picture, small_script):
    pictures = [trace_picture(prompt=f"fact <{i}>") for i in range(3)]
    page = Page(facts_page(pictures, role_picture()))
    assert page.options == ["Average by token role", *(f"fact <{i}> → ␣Paris" for i in range(3))]
    average = page.views[0]
    assert average["data"][0]["z"][1] == [None] * 30
    assert average["names"][1] == "middle subject tokens (n = 0)"
    assert average["more"][0][0] == "standard deviation"
    assert page.tags.count("section") == page.tags.count("table") == 4
    assert Page(facts_page(pictures)).options == page.options[1:]


def test_one_picture_needs_no_list(trace_picture, small_script):
    assert "select" not in Page(trace_html(trace_picture())).tags


def test_a_page_of_nothing_is_refused():
    with pytest.raises(InvalidArgument, match="at least one"):
        facts_page([])


def test_equal_pictures_give_equal_pages(trace_picture, small_script):
    assert trace_html(trace_picture()) == trace_html(trace_picture())


BROWSER = """
const input = JSON.parse(require("fs").readFileSync(0, "utf8")), drawn = [], on = {};
const sections = input.views.map(() => ({hidden: false}));
const choice = {value: "0", addEventListener: (name, act) => { on[name] = act; }};
const elements = {views: {textContent: JSON.stringify(input.views)}, choice: choice, plot: {}};
const document = {getElementById: id => elements[id], querySelectorAll: () => sections};
const window = {addEventListener: (name, act) => { on[name] = act; }}, location = {hash: input.hash};
const Plotly = {react: (plot, data, layout) => drawn.push({text: data[0].text, rows: layout.yaxis.ticktext})};
eval(input.script.replace('"use strict";', ""));
choice.value = "2"; on.change();
console.log(JSON.stringify({drawn, hash: location.hash, hidden: sections.map(section => section.hidden)}));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node to run the page's own script")
def test_hover_and_choice_work_when_the_script_runs(trace_picture, role_picture, small_script):
    error = np.full((10, 30), 0.125)
    pictures = [trace_picture(), trace_picture(("<b>", " x"), 4), trace_picture(standard_error=error)]
    page = Page(facts_page(pictures[:2], role_picture()))
    told = {"views": page.views, "script": page.scripts[2], "hash": "#2"}
    ran = subprocess.run(
        ["node", "-e", BROWSER], input=json.dumps(told), capture_output=True, text=True, check=True
    )
    result = json.loads(ran.stdout)
    first, second = result["drawn"]
    effect, restored = pictures[0].values[4, 8], pictures[0].p_restored[4, 8]
    assert first["text"][4][8].split("<br>") == [
        "␣Tower* (token 4)",
        "layer 8",
        f"indirect effect on p(␣Paris): {effect:#.4g}",
        f"p(␣Paris) restored: {restored:#.4g}",
    ]
    assert second["rows"] == ["<b>&lt;b&gt;*</b>", "<b>␣x*</b>"]
    assert second["text"][0][0].startswith("&lt;b&gt;* (token 0)<br>layer 0<br>")
    assert (result["hash"], result["hidden"]) == ("3", [True, True, False])
