"""Curves over noise levels, positions and layers."""

import numpy as np
import pytest
import xarray as xr

from figure_parts import caption_of, outside
from patchpoint.errors import InvalidArgument
from patchpoint.plots import curve, save

LEVELS = (1e-6, 0.001, 0.01, 0.1, 0.5, 1, 1.5, 2.5, 5, 10, 100, 1e6)


def course(x, mean, dim="std", width=0.1):
    mean = np.asarray(mean, dtype=float)
    ends = {"mean": mean, "low": mean - width, "high": mean + width}
    return xr.Dataset(
        {name: (dim, values) for name, values in ends.items()}, {dim: list(x)}, {"confidence": 0.95}
    )


def drawn(figure):
    axes = figure.axes[0]
    return axes, {line.get_label(): line for line in axes.get_lines() if not line.get_label().startswith("_")}


def titled(**more):
    return {"x_title": "standard deviation", "y_title": "mean effect", **more}


def test_lines_bands_and_bars_are_the_numbers_given(about):
    data = {"effect": course(LEVELS, np.arange(12)), "p": course(LEVELS, np.arange(12)[::-1] / 2)}
    figure = curve(data, about=about(condition="vary-noise"), log_x=True, **titled())
    axes, lines = drawn(figure)
    assert axes.get_xscale() == "log"
    for name, line in lines.items():
        np.testing.assert_array_equal(line.get_xdata(), LEVELS)
        np.testing.assert_array_equal(line.get_ydata(), data[name]["mean"])
    band, bars = axes.collections[:2]
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (-0.1, 11.1)
    np.testing.assert_allclose(
        [segment[:, 1] for segment in bars.get_segments()], [(m - 0.1, m + 0.1) for m in range(12)]
    )
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("standard deviation", "mean effect")
    assert "vary-noise" in caption_of(figure)
    assert "95% interval" in caption_of(figure)
    assert lines["effect"].get_marker() != lines["p"].get_marker()
    assert lines["effect"]._dash_pattern != lines["p"]._dash_pattern


def test_ticks_of_a_logarithmic_axis_are_levels_without_mathematics(about):
    figure = curve({"a": course(LEVELS, np.arange(12))}, about=about(), log_x=True, **titled())
    labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert labels == ["1e-06", "0.001", "0.01", "0.1", "1", "10", "100", "1e+06"]
    assert outside(figure) == []


def test_a_marked_level_has_a_line_and_its_number(about):
    figure = curve({"a": course((1, 2, 4), (0, 1, 2))}, about=about(), marked=3.25, log_x=True, **titled())
    axes = figure.axes[0]
    assert [3.25, 3.25] in [list(line.get_xdata()) for line in axes.get_lines()]
    assert [text.get_text() for text in axes.texts] == [" 3.25"]
    assert outside(figure) == []


def test_long_courses_have_bands_without_bars_and_staggered_markers(about):
    data = {name: course(range(30), np.arange(30), "layer") for name in ("whole", "MLP", "attention")}
    axes, lines = drawn(curve(data, about=about(), **titled()))
    assert len(axes.collections) == 3
    assert [line.get_markevery() for line in lines.values()] == [(0, 3), (1, 3), (2, 3)]
    assert all(float(tick).is_integer() for tick in axes.get_xticks())


def test_points_are_joined_in_order_along_the_axis(about):
    _, lines = drawn(curve({"a": course((3, 1, 2), (30, 10, 20))}, about=about(), **titled()))
    assert lines["a"].get_xydata().tolist() == [[1, 10], [2, 20], [3, 30]]


def test_texts_become_places_in_order_of_first_appearance(about):
    data = {
        "one": course(["alone"], [1], "place"),
        "two": course(["last", "alone", "$x$"], [3, 2, 4], "place"),
    }
    figure = curve(data, about=about(), **titled())
    axes, lines = drawn(figure)
    assert [text.get_text() for text in axes.get_xticklabels()] == ["alone", "last", "$x$"]
    assert lines["one"].get_xydata().tolist() == [[0, 1]]
    assert lines["two"].get_xydata().tolist() == [[0, 2], [1, 3], [2, 4]]
    assert outside(figure) == []


def test_missing_points_and_intervals_are_left_out(about):
    data = course((1, 2, 3), (1, np.nan, 3))
    data["low"][0] = data["high"][0] = np.nan
    figure = curve({"a": data}, about=about(), **titled())
    _, lines = drawn(figure)
    np.testing.assert_array_equal(lines["a"].get_ydata(), [1, np.nan, 3])
    assert outside(figure) == []


def test_many_and_long_names_lie_on_the_page(about, tmp_path):
    data = {
        f"{i} A rather long sentence such as $a fact$ of a prefix is {i}.": course((1, 2), (i, i))
        for i in range(9)
    }
    figure = curve(data, about=about(), **titled(x_title="x" * 200, y_title="words " * 15))
    assert outside(figure) == []
    _, lines = drawn(figure)
    assert len({(line.get_color(), line.get_marker()) for line in lines.values()}) == 9
    assert save(figure, tmp_path / "a.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("data", "more", "words"),
    [
        ({}, {}, "got none"),
        ({"a": course((0, 1), (1, 2))}, {"log_x": True}, "give finite numbers above 0"),
        ({"a": course((1, 2), (1, 2))}, {"log_x": True, "marked": -1.0}, "holds -1 to 2"),
        ({"a": course((1, np.nan), (1, 2))}, {}, "give finite numbers"),
        ({"a": course("xy", (1, 2))}, {"log_x": True}, "holds texts"),
        ({"a": course((1, 2), (1, 2)), "b": course((1, 2), (1, 2), "layer")}, {}, "expected one dim"),
        ({"a": course((1, 2), (1, 2)).drop_vars("high")}, {}, "without 'high'"),
        ({"a": course((1, 2), (1, np.inf))}, {}, "infinite"),
        ({"a": course((), ())}, {}, "at least one entry"),
    ],
)
def test_curves_of_another_form_are_refused(about, data, more, words):
    with pytest.raises(InvalidArgument, match=words) as caught:
        curve(data, about=about(), **titled(**more))
    assert "\n" not in str(caught.value)
