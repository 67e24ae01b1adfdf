"""Several conditions of one fact side by side, repeats, and the three panels of ROME."""

import numpy as np
import pytest

from figure_parts import bars_of, caption_of, dots_of, meshes, outside, row_labels, values_of
from patchpoint.errors import InvalidArgument, UnknownName
from patchpoint.plots import beside, heatmap, rome_panels, spread, trace_html


def test_conditions_share_one_scale_row_labels_and_bar(grid, about):
    grids = {"small": grid(layers=6), "large": grid(layers=30)}
    grids["large"] = grid(layers=30, effect=2 * grids["large"].effect)
    abouts = {"small": about(model="gpt2"), "large": about()}
    figure = beside(grids, abouts)
    for drawn, fact in zip(values_of(figure), grids.values(), strict=True):
        np.testing.assert_array_equal(drawn, fact.effect)
    end = np.abs(grids["large"].effect).max()
    assert [(mesh.norm.vmin, mesh.norm.vmax) for _, mesh in meshes(figure)] == [(-end, end)] * 2
    (left, _), (right, _) = meshes(figure)
    assert [left.get_title(), right.get_title()] == ["small", "large"]
    assert row_labels(left)[0] == "The*"
    assert row_labels(right) == []
    assert bars_of(figure) == ["indirect effect on p(␣Paris)"]


def test_captions_say_what_conditions_share_once_and_the_rest_by_name(grid, about):
    figure = beside(
        {"common": grid(), "fresh": grid(p_corrupt=0.2)},
        {"common": about(), "fresh": about(condition="fresh noise")},
    )
    caption = caption_of(figure)
    assert "common: smollm2-135m, gaussian: residual stream" in caption
    assert "fresh: smollm2-135m, fresh noise: residual stream" in caption
    assert "fresh: p(␣Paris): clean 0.662, corrupted 0.2, total effect 0.462" in caption
    assert caption.count("Noise s3 (std 0.112), 10 samples, seed 7") == 1


def test_other_tokens_have_their_own_labels_and_directions_their_own_axis(grid, about):
    grids = {"restore": grid(), "corrupt": grid(tokens=("The", " tower"), direction="corrupt")}
    figure = beside(grids, {name: about(direction=name) for name in grids})
    (left, _), (right, _) = meshes(figure)
    assert row_labels(right) == ["The*", "␣tower*"]
    assert "restored" in left.get_xlabel()
    assert "corrupted" in right.get_xlabel()
    assert figure.get_suptitle().count("Fact 12") == 2


def test_answers_that_differ_are_not_named_on_the_bar(grid, about):
    grids = {"a": grid(), "b": grid(answer=" Rome")}
    assert bars_of(beside(grids, dict.fromkeys(grids, about()))) == ["indirect effect on p(answer)"]


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (4, 1), (5, 2), (6, 2), (12, 3)])
def test_many_conditions_go_into_rows(grid, about, count, rows):
    grids = {f"level {i}": grid(layers=6, effect=np.full((10, 6), float(i))) for i in range(count)}
    figure = beside(grids, {name: about(noise=name) for name in grids})
    drawn = meshes(figure)
    assert [values[0, 0] for values in values_of(figure)] == list(range(count))
    assert len({round(axes.get_position().y0, 6) for axes, _ in drawn}) == rows
    assert len({round(axes.get_position().x0, 6) for axes, _ in drawn}) == -(-count // rows)
    assert outside(figure) == []


def test_estimates_are_dotted_only_where_they_are(grid, about):
    exact = np.zeros((10, 12), dtype=bool)
    exact[4] = True
    figure = beside(
        {"exact": grid(), "screen": grid(exact=exact)}, {"exact": about(), "screen": about(method="screen")}
    )
    first, second = (dots_of(axes) for axes, _ in meshes(figure))
    assert first == set()
    assert second == {(row, layer) for row in range(10) if row != 4 for layer in range(12)}
    assert "Dotted" in caption_of(figure)
    assert "screen: Noise s3" in caption_of(figure)


def test_what_cannot_stand_side_by_side_is_refused(grid, about):
    with pytest.raises(InvalidArgument, match="of equal names"):
        beside({}, {})
    with pytest.raises(InvalidArgument, match="of equal names"):
        beside({"a": grid()}, {"b": about()})
    with pytest.raises(InvalidArgument, match="metrics"):
        beside({"a": grid(), "b": grid()}, {"a": about(), "b": about(metric="logit")})


def test_spread_is_the_mean_beside_its_deviation_each_on_its_own_scale(grid, about):
    std = np.abs(grid().effect) / 3
    figure = spread(grid(), std, about(condition="repeat", facts=1))
    mean, deviation = values_of(figure)
    np.testing.assert_array_equal(mean, grid().effect)
    np.testing.assert_array_equal(deviation, std)
    (_, first), (_, second) = meshes(figure)
    assert first.norm.vmin == -first.norm.vmax
    assert (second.norm.vmin, second.norm.vmax) == (0, std.max())
    assert bars_of(figure) == [
        "mean indirect effect on p(␣Paris)",
        "standard deviation of effect on p(␣Paris)",
    ]
    assert outside(figure) == []


@pytest.mark.parametrize(
    ("std", "words"),
    [
        (np.full((10, 12), -1.0), "no negative"),
        (np.zeros((10, 11)), "shape"),
        (np.full((10, 12), np.inf), "infinite"),
    ],
)
def test_deviations_of_another_form_are_refused(grid, about, std, words):
    with pytest.raises(InvalidArgument, match=words):
        spread(grid(), std, about())


def rome(grid, about, **changes):
    grids = {"attn": grid(), "resid": grid(**changes), "mlp": grid()}
    return grids, {name: about(state=name, condition="rome", facts=1) for name in grids}


def test_rome_panels_are_state_mlp_attention_in_purple_green_red_on_one_scale(grid, about):
    grids, abouts = rome(grid, about)
    figure = rome_panels(grids, abouts)
    drawn = meshes(figure)
    assert [mesh.get_cmap().name for _, mesh in drawn] == ["Purples", "Greens", "Reds"]
    expected = np.maximum(0.0123 + grids["resid"].effect, 0.0123)
    np.testing.assert_allclose(values_of(figure)[0], expected)
    assert len({(mesh.norm.vmin, mesh.norm.vmax) for _, mesh in drawn}) == 1
    assert [axes.get_xlabel().replace("\n", " ") for axes, _ in drawn] == [
        "single restored layer within smollm2-135m",
        "center of interval of 10 restored MLP layers",
        "center of interval of 10 restored Attn layers",
    ]
    assert "smollm2-135m, rome: MLP output of a window of 10 layers restored" in caption_of(figure)
    assert outside(figure) == []


def test_rome_panels_refuse_what_does_not_fit(grid, about):
    grids, abouts = rome(grid, about)
    with pytest.raises(UnknownName, match="unknown state 'mpl'; did you mean mlp"):
        rome_panels({"mpl": grid()}, {"mpl": about()})
    with pytest.raises(InvalidArgument, match="of state 'resid'"):
        rome_panels({"mlp": grid()}, {"mlp": about()})
    with pytest.raises(InvalidArgument, match="give one direction"):
        rome_panels({**grids, "mlp": grid(direction="corrupt")}, abouts)
    grids, abouts = rome(grid, about, p_clean=np.nan)
    with pytest.raises(InvalidArgument, match="p_clean is nan"):
        rome_panels(grids, abouts)


def test_estimates_of_a_single_trace_are_dotted_in_figures_and_told_in_pages(trace_picture):
    exact = np.ones((10, 30), dtype=bool)
    exact[1, 2] = False
    figure = heatmap(trace_picture(exact=exact))
    assert dots_of(figure.axes[0]) == {(1, 2)}
    assert "Dotted cells are estimates" in caption_of(figure)
    assert "estimate (1) or measurement (0)" in trace_html(trace_picture(exact=exact))
    assert "estimate (1)" not in trace_html(trace_picture(exact=np.ones((10, 30), dtype=bool)))
    assert "Dotted" not in caption_of(heatmap(trace_picture()))
    for bad in (np.ones((2, 2), dtype=bool), np.ones((10, 30))):
        with pytest.raises(InvalidArgument, match="exact is"):
            trace_picture(exact=bad)
