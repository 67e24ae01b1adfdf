"""Many pages in one PDF: in order, the same bytes each time, one figure in memory at a time."""

import gc
import re
import weakref

import numpy as np
import pytest

from patchpoint.errors import InvalidArgument, ResultsError, UnknownName
from patchpoint.plots import heatmap, measure_page, save_book


def pages_of(path):
    content = path.read_bytes()
    assert content.startswith(b"%PDF-")
    return [tuple(map(float, box)) for box in re.findall(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", content)]


def test_each_figure_is_a_page_of_its_own_size_in_order(trace_picture, tmp_path):
    figures = [heatmap(trace_picture(("a",) * n, 6)) for n in (12, 3, 7)]
    path = save_book(figures, tmp_path / "deep" / "book.pdf")
    assert path == tmp_path / "deep" / "book.pdf"
    expected = [tuple(72 * figure.get_size_inches()) for figure in figures]
    assert pages_of(path) == [pytest.approx(size, abs=0.01) for size in expected]


def test_equal_figures_give_equal_bytes_without_a_date(grid, about, tmp_path):
    books = [
        save_book((measure_page(grid(number=n), about()) for n in (1, 2)), tmp_path / name)
        for name in ("a.pdf", "b.PDF")
    ]
    first, second = (path.read_bytes() for path in books)
    assert first == second
    assert b"CreationDate" not in first


def test_pages_of_usual_size_hold_no_raster_which_would_stay_in_memory(grid, about, tmp_path):
    exact = np.zeros((10, 12), dtype=bool)
    path = save_book([measure_page(grid(exact=exact), about())], tmp_path / "book.pdf")
    assert b"/Subtype /Image" not in path.read_bytes()


def test_a_figure_is_let_go_before_the_next_is_drawn(trace_picture, tmp_path):
    alive = []

    def figures():
        for _ in range(4):
            gc.collect()
            assert [figure for figure in alive if figure() is not None] == []
            figure = heatmap(trace_picture(("a",), 2))
            alive.append(weakref.ref(figure))
            yield figure
            del figure

    save_book(figures(), tmp_path / "book.pdf")
    assert len(alive) == 4


def test_a_book_is_whole_or_absent(trace_picture, tmp_path):
    path = tmp_path / "book.pdf"
    path.write_text("old")

    def figures():
        yield heatmap(trace_picture(("a",), 2))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_book(figures(), path)
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["book.pdf"]


def test_bad_books_are_refused_in_one_line(trace_picture, tmp_path):
    figure = heatmap(trace_picture(("a",), 2))
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder.pdf").mkdir()
    with pytest.raises(UnknownName, match=r"unknown book format '\.png'"):
        save_book([figure], tmp_path / "book.png")
    with pytest.raises(InvalidArgument, match="got no figure"):
        save_book([], tmp_path / "none.pdf")
    for bad in ("file/book.pdf", "folder.pdf", "nul\0.pdf", "x" * 300 + ".pdf"):
        with pytest.raises(ResultsError, match="cannot write") as caught:
            save_book([figure], tmp_path / bad)
        assert "\n" not in str(caught.value)
    assert {found.name for found in tmp_path.iterdir()} == {"file", "folder.pdf"}
