"""Figures of averages by token role, and of the share of wrong sign."""

import numpy as np
import pytest
import xarray as xr

from figure_parts import bar_axes, bars_of, caption_of, dots_of, meshes, outside, row_labels, values_of
from patchpoint.errors import InvalidArgument, UnknownName
from patchpoint.plots import role_averages_figure, role_lines, role_summary, save, share_heatmap
from patchpoint.tracing import ROLES
from patchpoint.tracing.averages import role_averages

MEASURES = ("indirect_effect", "percent_improvement")


@pytest.fixture
def averages(grid):
    """Averages of six facts, none with a middle subject token, one with a last subject token."""
    generator = np.random.default_rng(1)
    grids = []
    for number in range(6):
        base = grid(subject_span=(1, 3) if number == 0 else (1, 2), number=number + 1)
        scale = generator.uniform(0.2, 1.5)
        grids.append(grid(subject_span=base.subject_span, effect=base.effect * scale, number=number + 1))
    return {name: role_averages(grids, name, resamples=50) for name in MEASURES}


def lines_of(figure):
    """The roles' lines by the first line of their legend text."""
    (legend,) = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    texts = [text.get_text() for text in legend.get_texts()]
    axes = legend.axes
    lines = [line for line in axes.get_lines() if line.get_label() in texts]
    return axes, dict(
        zip((text.split(" (")[0] for text in texts), zip(lines, texts, strict=True), strict=True)
    )


def test_two_rows_hold_mean_and_standard_deviation_of_each_measure(averages, about):
    figure = role_averages_figure(averages, about())
    expected = [averages[name][kind].values for name in MEASURES for kind in ("mean", "std")]
    for drawn, numbers in zip(values_of(figure), expected, strict=True):
        np.testing.assert_array_equal(drawn, numbers)
    assert bars_of(figure) == [
        *("mean indirect effect on p(answer)", "standard deviation of indirect effect on p(answer)"),
        *("mean percent improvement of p(answer)", "standard deviation of percent improvement of p(answer)"),
    ]
    scales = [(mesh.norm.vmin, mesh.norm.vmax) for _, mesh in meshes(figure)]
    assert scales[0][0] == -scales[0][1] == -np.nanmax(np.abs(expected[0]))
    assert scales[3] == (0, np.nanmax(expected[3]))


def test_rows_say_their_tokens_and_why_they_are_empty(averages, about):
    means, deviations = (axes for axes, _ in meshes(role_averages_figure(averages, about()))[:2])
    assert row_labels(means)[:3] == [
        "first subject token (n = 6)",
        "middle subject tokens (n = 0)",
        "last subject token (n = 1)",
    ]
    assert [text.get_text() for text in means.texts] == ["no tokens"]
    assert [text.get_text() for text in deviations.texts] == ["no tokens", "one token"]


def test_lines_are_the_means_with_their_intervals_as_bands(averages, about):
    data = averages["indirect_effect"]
    axes, lines = lines_of(role_lines(data, about()))
    assert list(lines) == list(ROLES)
    for role, (line, _) in lines.items():
        np.testing.assert_array_equal(line.get_ydata(), data["mean"].sel(role=role))
    band = axes.collections[0].get_paths()[0].vertices
    first = data.sel(role=ROLES[0])
    assert (band[:, 1].min(), band[:, 1].max()) == (first["low"].min(), first["high"].max())


@pytest.mark.parametrize("direction", ["restore", "corrupt"])
def test_peaks_lie_on_the_expected_side_and_are_told_with_their_interval(averages, about, direction):
    data = averages["indirect_effect"]
    axes, lines = lines_of(role_lines(data, about(direction=direction)))
    last = data.sel(role="last token")
    furthest = {"restore": np.argmax, "corrupt": np.argmin}[direction]
    layer = int(furthest(last["mean"].values))
    mean, low, high = (float(last[name][layer]) for name in ("mean", "low", "high"))
    assert lines["last token"][1] == (
        f"last token (6 facts)\npeak {mean:.3g} [{low:.3g}, {high:.3g}] at layer {layer}"
    )
    rings = {tuple(line.get_xydata()[0]) for line in axes.get_lines() if line.get_markerfacecolor() == "none"}
    assert (layer, mean) in rings
    assert len(rings) == 5
    assert lines["middle subject tokens"][1] == "middle subject tokens (0 facts)\nnot measured"
    assert "[" not in lines["last subject token"][1]


def test_percent_improvement_reads_in_percent(averages, about):
    figure = role_lines(averages["percent_improvement"], about(), measure="percent_improvement")
    axes, lines = lines_of(figure)
    assert axes.get_ylabel().replace("\n", " ") == "mean percent improvement of p(answer)"
    peak = 100 * float(averages["percent_improvement"]["mean"].sel(role="last token").max())
    assert f"peak {peak:.3g}% [" in lines["last token"][1]


def test_lines_differ_in_dash_and_marker_not_in_hue_alone(averages, about):
    _, lines = lines_of(role_lines(averages["indirect_effect"], about()))
    drawn = [line for line, _ in lines.values()]
    assert len({line.get_marker() for line in drawn}) == 6
    assert len({str(line._dash_pattern) for line in drawn}) == 5
    assert len({line.get_color() for line in drawn}) == 6


def test_the_summary_is_the_heatmap_of_means_over_the_lines_on_one_layer_axis(averages, about):
    data = averages["indirect_effect"]
    figure = role_summary(data, about())
    np.testing.assert_array_equal(values_of(figure)[0], data["mean"])
    below, lines = lines_of(figure)
    np.testing.assert_array_equal(lines["last token"][0].get_ydata(), data["mean"].sel(role="last token"))
    above = figure.axes[0]
    assert above.get_xlim() == below.get_xlim()
    spans = [axes.get_position() for axes in (above, below)]
    assert (spans[0].x0, spans[0].x1) == pytest.approx((spans[1].x0, spans[1].x1))
    assert bars_of(figure) == ["mean indirect effect on p(answer)"]


@pytest.mark.parametrize("layers", [1, 6, 48])
def test_texts_of_role_figures_lie_on_the_page(grid, about, layers):
    data = role_averages([grid(layers=layers), grid(layers=layers, tokens=("a", "b"))], resamples=20)
    wordy = about(model="an-organisation/with-a-rather-long-model-name", state="mlp")
    for figure in (
        role_averages_figure({"indirect_effect": data}, wordy),
        role_lines(data, wordy),
        role_summary(data, wordy),
    ):
        assert outside(figure) == []


def test_captions_say_how_averages_were_made(averages, about, tmp_path):
    data = averages["indirect_effect"].assign_attrs(confidence=0.9)
    figure = role_summary(data, about(method="attribution"))
    for words in (
        *("smollm2-135m, gaussian", "1,234 facts", "s3 (std 0.112)", "10 samples", "seed 7"),
        *("method attribution", "90% interval of the mean, bootstrap over facts"),
    ):
        assert words in caption_of(figure)
    one, two = (
        save(role_summary(data, about()), tmp_path / name).read_bytes() for name in ("a.svg", "b.svg")
    )
    assert one == two


def test_averages_of_another_form_are_refused(averages, about):
    data = averages["indirect_effect"]
    with pytest.raises(InvalidArgument, match="got no measure"):
        role_averages_figure({}, about())
    with pytest.raises(UnknownName, match="did you mean indirect_effect"):
        role_averages_figure({"indirect_efect": data}, about())
    for draw in (role_lines, role_summary):
        with pytest.raises(InvalidArgument, match="without 'low'"):
            draw(data.drop_vars("low"), about())
        with pytest.raises(InvalidArgument, match="has dims"):
            draw(data.isel(layer=0), about())
        with pytest.raises(UnknownName, match="unknown measure 'nonsense'"):
            draw(data, about(), measure="nonsense")


@pytest.fixture
def shares():
    share = np.full((6, 4), 0.25)
    share[0, 1] = 0.9
    share[1] = np.nan
    low, high = share - 0.1, share + 0.05
    share[2, 2], low[2, 2] = 0.55, 0.45
    data = {
        "share": share,
        "low": low,
        "high": high,
        "count": np.array([[7], [0], [5], [7], [9], [7]]) + 0 * share,
    }
    coords = {"role": list(ROLES), "layer": np.arange(4)}
    data["count"] = np.nan_to_num(data["count"])
    return xr.Dataset({name: (("role", "layer"), values) for name, values in data.items()}, coords)


def test_shares_are_in_one_hue_from_0_to_1_with_one_half_marked(shares, about):
    figure = share_heatmap(shares, about())
    ((axes, mesh),) = meshes(figure)
    np.testing.assert_array_equal(values_of(figure)[0], shares["share"])
    assert (mesh.norm.vmin, mesh.norm.vmax) == (0, 1)
    assert mesh.get_cmap().name == "Purples"
    (bar,) = bar_axes(figure)
    assert [list(line.get_ydata()) for line in bar.get_lines()] == [[0.5, 0.5]]
    assert [text.get_text() for text in bar.get_yticklabels()] == ["0%", "25%", "50%", "75%", "100%"]
    assert dots_of(axes) == {(0, 1)}
    assert row_labels(axes)[0] == "first subject token (n = 7)"
    assert [text.get_text() for text in axes.texts] == ["no tokens"]
    assert "Share of effects that lower p(answer)" in caption_of(figure)
    assert "raise p(answer)" in caption_of(share_heatmap(shares, about(direction="corrupt")))
    assert outside(figure) == []


def test_shares_that_are_percentages_are_refused(shares, about):
    with pytest.raises(InvalidArgument, match="give ratios, not percentages"):
        share_heatmap(shares.assign(share=shares["share"] * 100), about())
