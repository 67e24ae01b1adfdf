"""The pages as a reader and a browser get them."""

import re
from collections import Counter
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from patchpoint.errors import InvalidArgument
from patchpoint.plots import TracePicture, heatmap
from patchpoint.plots.labels import prose
from patchpoint.report import Drawn, Entry, Section, Table, experiment_page, index_page
from patchpoint.report.inline import inline_svg
from patchpoint.report.page import ROWS

VOID = {"meta", "br", "img", "link", "hr", "input"}
NASTY = "</style></title><script>alert(1)</script><b>&amp;\"'$title ${body}"


class Read(HTMLParser):
    """Every element of a page with its attributes, and the text under each path of names."""

    def __init__(self, page):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((tuple(self.open), data))

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]

    def text(self, tag=None):
        return "".join(data for path, data in self.texts if tag is None or tag in path)


def picture(rows=4, layers=6, **changes):
    values = np.random.default_rng(rows).normal(0, 0.1, (rows, layers))
    fields = {
        "values": values,
        "tokens": tuple(f" w{i}" for i in range(rows)),
        "layers": tuple(range(layers)),
        "model": "m",
        "prompt": "p",
        "answer": " a",
        "noise": "s3",
        "samples": 2,
        "seed": 0,
        "p_clean": 0.5,
        "p_corrupt": 0.1,
        "subject_span": (0, 2),
    }
    return heatmap(TracePicture(**(fields | changes)))


def made(text="t", **changes):
    arguments = {
        "title": text,
        "question": text,
        "source": text,
        "command": text,
        "call": text,
        "settings": {text: text},
        "sections": [],
    }
    return experiment_page(**(arguments | changes))


def section(figures=(), frame=None, text=""):
    frame = pd.DataFrame({"role": ["last"], "mean": [0.123456], "low": [np.nan]}) if frame is None else frame
    table = Table(name="roles", frame=frame, caption="By role")
    return Section(title="Findings", text=text, figures=tuple(figures), tables=(table,))


def test_a_page_says_everything_without_a_script():
    drawn = Drawn(
        figure=picture(), alt="Effects by token and layer", files=("average.pdf", "book of facts.pdf")
    )
    page = experiment_page(
        title="gaussian",
        question="Where does a restored state bring the answer back?",
        source="Meng et al. 2022, section 2",
        command="patchpoint experiment gaussian \\\n  --limit 100",
        call="pp.experiments.gaussian(model, facts)",
        settings={"samples": 10, "noise": "s3", "std": 0.1234567, "window": None},
        sections=[section([drawn], text="One line\nof text.\n\nAnother.")],
        files=["run.json"],
    )
    read = Read(page)
    words = read.text()
    for expected in (
        "Where does a restored state bring the answer back?",
        "Meng et al. 2022, section 2",
        "pp.experiments.gaussian(model, facts)",
        "0.1235",
        "not measured",
        "By role",
    ):
        assert expected in words
    assert "patchpoint experiment gaussian \\\n  --limit 100" in read.text("code")
    assert "One line of text." in [data for path, data in read.texts if path[-1:] == ("p",)]
    assert words.index("0.1235") < words.index("Command line"), "what was found comes first"
    links = [attrs["href"] for attrs in read.all("a")]
    assert links == ["./roles.csv", "./roles.tex", "./average.pdf", "./book%20of%20facts.pdf", "./run.json"]
    (image,) = read.all("svg")
    assert (image["role"], image["aria-label"]) == ("img", "Effects by token and layer")
    assert read.text("table").count("0.1235") == 2


def test_a_page_needs_no_script_and_no_other_address():
    figures = [Drawn(figure=picture(60, 48), alt="raster"), Drawn(figure=picture(), alt="cells")]
    page = made(sections=[section(figures)])
    read = Read(page)
    assert not read.all("script")
    without_data = re.sub(r"data:image/png;base64,[\w+/=\s]*", "", page)
    assert not re.search(r"https?:|//[a-z]|@import|javascript:", without_data)
    policy = next(attrs for attrs in read.all("meta") if attrs.get("http-equiv"))
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    rasters = [attrs["href"] for attrs in read.all("image")]
    assert rasters
    assert all(address.startswith("data:image/png;base64,") for address in rasters)
    for _, attrs in read.elements:
        assert not any(name.startswith("on") for name in attrs)


def test_no_id_of_a_page_is_used_twice_and_every_reference_is_met():
    figures = [Drawn(figure=picture(rows), alt=f"figure {rows}") for rows in (4, 4, 5)]
    page = made(sections=[section(figures[:2]), section(figures[2:])])
    ids = Counter(attrs["id"] for _, attrs in Read(page).elements if "id" in attrs)
    assert ids.most_common(1)[0][1] == 1
    assert sum(name.endswith("-figure_1") for name in ids) == 3
    used = re.findall(r"url\(#([^)]*)\)", page) + re.findall(r'href="#([^"]*)"', page)
    assert used
    assert set(used) <= set(ids)


@pytest.mark.parametrize("token", ['id="axes_1"', "url(#x)", "M 0 0 L 1.23456 1", 'href="#a"', "<b>", "]]>"])
def test_r60_labels_of_figures_stay_as_they_are(token):
    figure = picture(2, tokens=(token, " w"), subject_span=(1, 2))
    read = Read(made(sections=[section([Drawn(figure=figure, alt=NASTY)])]))
    assert any(path[-1:] == ("text",) and data == prose(token).replace(" ", "␣") for path, data in read.texts)
    assert read.all("svg")[0]["aria-label"] == NASTY


@settings(max_examples=60)
@given(st.text(max_size=40))
def test_r60_any_text_is_only_text(text):
    frame = pd.DataFrame({text: [text], "n": [1]})
    plain, odd = (
        made(t, sections=[Section(title=t, text="x", tables=(Table(name="t", frame=f, caption=t),))])
        for t, f in (("t", frame.rename(columns={text: "t"}).assign(t="t")), (text, frame))
    )
    assert [tag for tag, _ in Read(odd).elements] == [tag for tag, _ in Read(plain).elements]
    assert Read(odd).all("table")[0]["aria-label"] == prose(text)
    assert prose(text) in Read(odd).text("p")
    odd.encode("utf-8")


def test_r60_markup_in_every_place_is_shown():
    drawn = Drawn(figure=picture(), alt=NASTY, files=(NASTY,))
    page = made(NASTY, sections=[section([drawn], pd.DataFrame({NASTY: [NASTY]}), NASTY)], files=[NASTY])
    read = Read(page)
    assert not read.all("script")
    assert not read.all("b")
    for tag in ("title", "h1", "code", "td", "th", "figcaption"):
        assert NASTY in read.text(tag)


@pytest.mark.parametrize(
    "file", ["//example.org/x", "javascript:alert(1)", "/etc/passwd", 'a"b', "a#b?c", "\ud800"]
)
def test_r60_links_stay_beside_the_page(file):
    (link,) = Read(index_page([Entry(title="t", file=file, line="l")])).all("a")
    assert re.fullmatch(r"\./[\w%./~-]*", link["href"], re.ASCII)
    assert file == "\ud800" or unquote(link["href"]) == f"./{file}"


@pytest.mark.slow
def test_a_page_of_ten_full_figures_is_small():
    figures = [Drawn(figure=picture(40, 48), alt=f"figure {i}") for i in range(10)]
    assert len(made(sections=[section(figures)]).encode()) < 2_000_000


def test_a_long_table_shows_its_beginning_and_says_so():
    frame = pd.DataFrame({"fact": range(ROWS + 7)})
    page = made(sections=[section(frame=frame)])
    assert f"The first {ROWS} of {ROWS + 7} rows" in page
    assert f'<th scope="row" class=number>{ROWS - 1}</th>' in page
    assert f'<th scope="row" class=number>{ROWS}</th>' not in page
    assert "The first" not in made(sections=[section(frame=frame[:ROWS])])


def test_the_cells_of_an_inlined_heatmap_are_those_of_the_file():
    figure = Figure(figsize=(2, 2))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.pcolormesh([[0.2, 1.0], [2.0, 3.0]], cmap="gray", vmin=0, edgecolors="white", linewidth=0.3)
    svg = inline_svg(figure, prefix="p-", alt="a")
    group = re.search(r'<g id="p-QuadMesh_1"([^>]*)>(.*?)</g>', svg)
    assert 'stroke-width="0.3"' in group[1]
    assert 'stroke="#ffffff"' in group[1]
    cells = dict(re.findall(r'<path d="([^"]*)" fill="(#\w+)"', group[2]))
    assert cells == {
        "M0 144H72V72H0z": "#111111",
        "M72 144H144V72H72z": "#555555",
        "M0 72H72V0H0z": "#aaaaaa",
        "M72 72H144V0H72z": "#ffffff",
    }


def test_equal_figures_give_equal_pages():
    pages = [made(sections=[section([Drawn(figure=picture(), alt="a")])]) for _ in range(2)]
    assert pages[0] == pages[1]


def test_a_figure_without_words_is_refused():
    with pytest.raises(InvalidArgument, match="alt text"):
        Drawn(figure=picture(), alt=" ")


def test_the_index_lists_experiments_in_order():
    entries = [Entry(title=name, file=f"{name}/index.html", line=f"What {name} asks") for name in ("b", "a")]
    read = Read(index_page(entries))
    assert [attrs["href"] for attrs in read.all("a")] == ["./b/index.html", "./a/index.html"]
    assert "What b asks" in read.text("dd")
    assert "No experiment" in Read(index_page([])).text()
