"""The page of one fact: four measures, estimates, awkward tokens, extreme sizes."""

import numpy as np
import pytest

from figure_parts import bar_axes, bars_of, caption_of, dots_of, meshes, outside, row_labels, values_of
from patchpoint.errors import InvalidArgument, UnknownName
from patchpoint.plots import measure_page, save
from patchpoint.plots.panel import Panel

ODD = (
    "<s>",
    "\n",
    "$x^2$",
    "<img src=x onerror=alert(1)>",
    " the",
    " the",
    "東京",
    "",
    "x" * 80,
    "\t",
    "&amp;",
)


@pytest.mark.parametrize(("direction", "cut"), [("restore", np.maximum), ("corrupt", np.minimum)])
def test_four_panels_hold_the_four_measures(grid, about, direction, cut):
    fact = grid(direction=direction)
    figure = measure_page(fact, about(direction=direction))
    share = fact.effect / (0.662 - 0.0123)
    for drawn, expected in zip(
        values_of(figure), (fact.effect, cut(fact.effect, 0), share, cut(share, 0)), strict=True
    ):
        np.testing.assert_allclose(drawn, expected, rtol=1e-12)
    assert [axes.get_title() for axes, _ in meshes(figure)] == [
        *("Indirect effect", "Indirect effect, cut off at 0"),
        *("Percent improvement", "Percent improvement, cut off at 0"),
    ]


def test_panels_of_one_kind_share_a_scale_centred_on_0(grid, about):
    fact = grid()
    limits = [(mesh.norm.vmin, mesh.norm.vmax) for _, mesh in meshes(measure_page(fact, about()))]
    largest = np.abs(fact.effect).max()
    share = largest / fact.total_effect
    assert limits[:2] == [(-largest, largest)] * 2
    assert limits[2:] == [pytest.approx((-share, share))] * 2


def test_bars_name_the_answer_and_ratios_read_in_percent(grid, about):
    figure = measure_page(grid(), about())
    assert bars_of(figure) == ["indirect effect on p(␣Paris)", "percent improvement of p(␣Paris)"]
    ends = ["%" in text.get_text() for bar in bar_axes(figure) for text in bar.get_yticklabels()[:1]]
    assert ends == [False, True]


def test_heading_and_caption_say_fact_model_condition_noise_samples_seed_and_method(grid, about):
    figure = measure_page(grid(), about(facts=1, method="screen", sever="attn"))
    heading = "Fact 12: “The Eiffel Tower is in the city of”, answer “␣Paris”"
    assert figure.get_suptitle().replace("\n", " ") == heading
    for words in (
        *("smollm2-135m, gaussian", "residual stream restored at one token", "Noise s3 (std 0.112)"),
        *("10 samples, seed 7", "attention outputs after it as in the corrupted run", "method screen"),
        *("p(␣Paris): clean 0.662, corrupted 0.0123, total effect 0.6497",),
    ):
        assert words in caption_of(figure)
    assert "Dotted" not in caption_of(figure)


def test_estimates_are_dotted_in_every_panel_and_the_caption_says_so(grid, about):
    exact = np.ones((10, 12), dtype=bool)
    exact[3, 4] = exact[9, 11] = exact[2, 2] = False
    effect = grid().effect.copy()
    effect[2, 2] = np.nan
    figure = measure_page(grid(exact=exact, effect=effect), about(method="attribution"))
    assert [dots_of(axes) for axes, _ in meshes(figure)] == [{(3, 4), (9, 11)}] * 4
    assert "Dotted cells are estimates, not measurements" in caption_of(figure)
    assert "method attribution" in caption_of(figure)


def test_nothing_is_dotted_where_the_only_inexact_cells_hold_no_value(grid, about):
    exact = np.ones((10, 12), dtype=bool)
    exact[0] = False
    effect = grid().effect.copy()
    effect[0] = np.nan
    figure = measure_page(grid(exact=exact, effect=effect), about())
    assert dots_of(figure.axes[0]) == set()
    assert "Dotted" not in caption_of(figure)


def test_subject_rows_are_starred_and_bold_and_shared_from_the_left(grid, about):
    (left, _), (right, _), *_ = meshes(measure_page(grid(subject_span=(1, 3)), about()))
    assert row_labels(left)[:4] == ["The", "␣E*", "iff*", "el"]
    weights = [label.get_fontweight() for label in left.get_yticklabels()]
    assert weights[:4] == ["normal", "bold", "bold", "normal"]
    assert row_labels(right) == []


def test_an_unknown_total_effect_leaves_percent_improvement_grey(grid, about):
    figure = measure_page(grid(p_clean=np.nan, p_corrupt=np.nan), about())
    effect, _, share, _ = values_of(figure)
    assert np.isfinite(effect).all()
    assert np.isnan(share).all()
    assert "clean not known, corrupted not known" in caption_of(figure)


def test_r47_tokens_of_equal_text_keep_separate_rows(grid, about):
    fact = grid(tokens=(" the", " the", " the"), subject_span=(1, 2))
    figure = measure_page(fact, about())
    assert row_labels(figure.axes[0]) == ["␣the", "␣the*", "␣the"]
    np.testing.assert_array_equal(values_of(figure)[0], fact.effect)


def test_r60_markup_and_blanks_in_tokens_are_drawn_as_text(grid, about, tmp_path):
    figure = measure_page(grid(tokens=ODD, layers=6, subject_span=(2, 5), answer="\n"), about())
    assert row_labels(figure.axes[0])[:4] == ["<s>", "↵", "$x^2$*", "<img␣src=x␣onerror=aler…*"]
    assert "answer “↵”" in figure.get_suptitle().replace("\n", " ")
    assert "<img src" not in save(figure, tmp_path / "page.svg").read_text("utf-8")


@pytest.mark.parametrize(
    ("tokens", "layers"),
    [
        (("a", "b", "c", "d", "e"), 6),
        (tuple(f" w{i}" for i in range(40)), 48),
        (ODD, 6),
        ((" Paris",), 1),
    ],
)
def test_every_text_lies_on_the_page(grid, about, tokens, layers):
    wordy = about(
        model="an-organisation/with-a-rather-long-model-name", condition="random-embedding", facts=1
    )
    figure = measure_page(grid(tokens=tokens, layers=layers, subject_span=(0, 1)), wordy)
    assert outside(figure) == []


def test_rows_stay_readable_and_pages_bounded(grid, about):
    page = measure_page(grid(tokens=("word",) * 40, layers=48), about())
    width, height = page.get_size_inches()
    assert width < 13
    assert height < 18
    assert page.axes[0].get_yticklabels()[0].get_fontsize() >= 8


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_fact_without_any_effect_can_be_drawn(grid, about, value):
    effect = np.full((10, 12), value)
    assert outside(measure_page(grid(effect=effect), about())) == []


def test_infinite_effects_and_no_layers_are_refused(grid, about):
    with pytest.raises(InvalidArgument, match="infinite values"):
        measure_page(grid(effect=np.full((10, 12), np.inf)), about())
    none = np.zeros((10, 0))
    with pytest.raises(InvalidArgument, match="at least one of each"):
        Panel.of(grid(effect=none, effect_se=none, exact=none == 0), none)
    with pytest.raises(InvalidArgument, match="at least one of each"):
        measure_page(grid(effect=none, effect_se=none, exact=none == 0), about())


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"method": "exakt"}, UnknownName, "did you mean exact"),
        ({"sever": "mpl"}, UnknownName, "unknown severed part 'mpl'; did you mean mlp"),
        ({"metric": "probs"}, UnknownName, "did you mean prob"),
        ({"facts": 0}, InvalidArgument, "facts is 0, expected a whole number from 1"),
        ({"samples": 0}, InvalidArgument, "samples is 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(about, change, kind, words):
    with pytest.raises(kind, match=words):
        about(**change)


def test_one_fact_is_not_plural(about):
    assert about(facts=1).caption[1] == "1 fact"
    assert about().caption[1] == "1,234 facts, each with its own answer"
