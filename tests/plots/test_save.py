import xml.etree.ElementTree as ET

import matplotlib
import pytest
from PIL import Image

from patchpoint.errors import ResultsError, UnknownName
from patchpoint.plots import heatmap, role_heatmap, save

SVG = "{http://www.w3.org/2000/svg}"


def test_png_is_an_image_of_at_least_150_dpi(trace_picture, tmp_path):
    figure = heatmap(trace_picture())
    path = save(figure, tmp_path / "deep" / "er" / "trace.PNG")
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    with Image.open(path) as image:
        width, height = image.size
    assert width >= 150 * figure.get_size_inches()[0] - 1
    assert height >= 150 * figure.get_size_inches()[1] - 1


def test_svg_is_xml_whose_text_stays_text(trace_picture, tmp_path):
    tokens = ("</text><script>", "&", " $x$", "\x00", "\ud800", "]]>")
    path = save(heatmap(trace_picture(tokens, 6)), str(tmp_path / "trace.svg"))
    root = ET.parse(path).getroot()
    assert root.tag == f"{SVG}svg"
    texts = ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]
    for label in ("</text><script>*", "&*", "␣$x$*", r"\x00*", r"\ud800*", "]]>"):
        assert label in texts
    assert not list(root.iter(f"{SVG}script"))


def test_svg_and_pdf_of_many_cells_stay_small(trace_picture, tmp_path):
    picture = trace_picture(tuple(f"w{i}" for i in range(200)), 48)
    for suffix in (".svg", ".pdf"):
        assert save(heatmap(picture), tmp_path / f"long{suffix}").stat().st_size < 400_000


def test_pdf_is_a_pdf_without_a_date(trace_picture, tmp_path):
    page = save(heatmap(trace_picture()), tmp_path / "trace.pdf").read_bytes()
    assert page.startswith(b"%PDF-")
    assert b"CreationDate" not in page


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_equal_figures_give_equal_bytes(trace_picture, role_picture, tmp_path, suffix):
    for draw, picture in ((heatmap, trace_picture), (role_heatmap, role_picture)):
        first = save(draw(picture()), tmp_path / f"first{suffix}").read_bytes()
        second = save(draw(picture()), tmp_path / f"second{suffix}").read_bytes()
        assert first == second


def test_one_figure_saved_twice_gives_equal_bytes(trace_picture, tmp_path):
    figure = heatmap(trace_picture())
    assert save(figure, tmp_path / "a.svg").read_bytes() == save(figure, tmp_path / "b.svg").read_bytes()


def test_saving_leaves_the_settings_of_matplotlib_alone(trace_picture, tmp_path):
    before = dict(matplotlib.rcParams)
    save(heatmap(trace_picture()), tmp_path / "trace.svg")
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("trace.jpg", "unknown picture format '.jpg'"),
        ("trace", "known: .png, .svg, .pdf"),
        ("a.pn", "did you mean"),
    ],
)
def test_unknown_formats_are_named(trace_picture, tmp_path, name, words):
    with pytest.raises(UnknownName, match=words):
        save(heatmap(trace_picture()), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_unwritable_places_are_one_line(trace_picture, tmp_path):
    figure = heatmap(trace_picture(("a",), 2))
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder.png").mkdir()
    for bad in ("file/trace.png", "folder.png", "nul\0.png", "x" * 300 + ".png"):
        with pytest.raises(ResultsError, match="cannot write picture") as caught:
            save(figure, tmp_path / bad)
        assert "\n" not in str(caught.value)
