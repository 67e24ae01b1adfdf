import subprocess
import sys
from io import BytesIO
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.collections import QuadMesh
from matplotlib.text import Text

import patchpoint
from patchpoint.errors import InvalidArgument, UnknownName
from patchpoint.plots import heatmap, panels, save

ODD = (
    *(
        "<s>",
        "</s>",
        "<b>",
        "<br>",
        "<img src=x onerror=alert(1)>",
        "&amp;",
        "$x^2$",
        "$",
        "\\frac",
        "_",
        "^",
    ),
    *("\n", "\t", " ", "\r", "\x00", "", "東京", "\U0001f9ff", "\u0301a", "שלום", "x" * 80, " the", " the"),
)


def mesh_of(axes):
    return next(artist for artist in axes.get_children() if isinstance(artist, QuadMesh))


def row_labels(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


def drawn_texts(figure):
    """Every text that is drawn; matplotlib keeps, but does not draw, labels of ticks beyond the limits."""
    unseen = set()
    for axes in figure.axes:
        low, high = sorted(axes.get_ylim())
        unseen |= {tick.label2 for tick in axes.yaxis.get_major_ticks() if not low <= tick.get_loc() <= high}
    return [t for t in figure.findobj(Text) if t.get_visible() and t.get_text() and t not in unseen]


def test_cells_are_the_effects_first_token_on_top(trace_picture):
    picture = trace_picture()
    axes = heatmap(picture).axes[0]
    mesh = mesh_of(axes)
    np.testing.assert_array_equal(mesh.get_array(), picture.values)
    assert axes.get_ylim() == (9.5, -0.5)
    assert axes.get_xlim() == (-0.5, 29.5)
    corners = mesh.get_coordinates()
    np.testing.assert_array_equal(corners[4, 7], [6.5, 3.5])


def test_colours_are_symmetric_about_zero_and_show_negatives(trace_picture):
    picture = trace_picture()
    mesh = mesh_of(heatmap(picture).axes[0])
    limit = np.abs(picture.values).max()
    assert (mesh.norm.vmin, mesh.norm.vmax) == (-limit, limit)
    assert mesh.get_cmap().name == "RdBu_r"
    red, _, blue, _ = mesh.to_rgba(picture.values.min())
    assert blue > red
    red, _, blue, _ = mesh.to_rgba(picture.values.max())
    assert red > blue
    assert min(mesh.to_rgba(0.0)) > 0.95


def test_subject_rows_are_starred_and_bold(trace_picture):
    axes = heatmap(trace_picture(subject_span=(1, 5))).axes[0]
    assert row_labels(axes) == [
        *("The", "␣E*", "iff*", "el*", "␣Tower*"),
        *("␣is", "␣in", "␣the", "␣city", "␣of"),
    ]
    weights = [label.get_fontweight() for label in axes.get_yticklabels()]
    assert weights == ["normal"] + ["bold"] * 4 + ["normal"] * 5


def test_layers_have_a_tick_every_five_with_their_own_labels(trace_picture):
    axes = heatmap(trace_picture(layers=12)).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "5", "10"]
    labels = ("embed", *range(20, 26))
    axes = heatmap(trace_picture(("a",), labels)).axes[0]
    assert list(axes.get_xticks()) == [0, 5]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["embed", "24"]


def test_colour_bar_and_caption_say_what_is_shown(trace_picture):
    figure = heatmap(trace_picture())
    assert figure.axes[1].get_ylabel() == "indirect effect on p(␣Paris)"
    caption = figure.get_supxlabel()
    for words in (
        *("smollm2-135m", "residual stream restored", "“The Eiffel Tower is in the city of”", "“␣Paris”"),
        *("0.662 clean", "0.0123 corrupted", "Noise s3 (std 0.112)", "10 samples", "seed 7"),
    ):
        assert words in caption.replace("\n", " ")


@pytest.mark.parametrize(
    ("state", "hue", "axis"),
    [
        ("resid", "Purples", "single restored layer within smollm2-135m"),
        ("mlp", "Greens", "center of interval of 10 restored MLP layers"),
        ("attn", "Reds", "center of interval of 10 restored Attn layers"),
    ],
)
def test_rome_style_is_p_answer_in_one_hue_cut_off_at_p_corrupt(trace_picture, state, hue, axis):
    picture = trace_picture(state=state)
    figure = heatmap(picture, style="rome")
    mesh = mesh_of(figure.axes[0])
    expected = np.maximum(picture.p_corrupt + picture.values, picture.p_corrupt)
    np.testing.assert_allclose(mesh.get_array(), expected)
    assert (mesh.norm.vmin, mesh.norm.vmax) == pytest.approx((picture.p_corrupt, expected.max()))
    assert mesh.get_cmap().name == hue
    assert figure.axes[0].get_xlabel().replace("\n", " ") == axis
    assert figure.axes[1].get_ylabel() == "p(␣Paris)"


def test_rome_style_of_a_corrupting_trace_is_darkest_where_the_answer_is_lost(trace_picture):
    picture = trace_picture()
    picture = trace_picture(direction="corrupt", values=-picture.values)
    mesh = mesh_of(heatmap(picture, style="rome").axes[0])
    np.testing.assert_allclose(
        mesh.get_array(), np.minimum(picture.p_clean + picture.values, picture.p_clean)
    )
    low, high = (sum(mesh.to_rgba(p)[:3]) for p in (mesh.norm.vmin, mesh.norm.vmax))
    assert low < high


def test_cells_not_measured_are_grey(trace_picture):
    values = trace_picture().values.copy()
    values[2, 3] = np.nan
    mesh = mesh_of(heatmap(trace_picture(values=values)).axes[0])
    assert mesh.get_array().mask.sum() == 1
    red, green, blue, _ = mesh.to_rgba(mesh.get_array())[2, 3]
    assert red == green == blue < 0.9


@pytest.mark.parametrize("values", [np.zeros((10, 30)), np.full((10, 30), np.nan)])
@pytest.mark.parametrize("style", ["patchpoint", "rome"])
def test_a_trace_without_any_effect_can_be_drawn(trace_picture, values, style):
    figure = heatmap(trace_picture(values=values), style=style)
    figure.savefig(BytesIO(), format="png")


def test_r47_tokens_of_equal_text_keep_separate_rows(trace_picture):
    values = np.arange(90.0).reshape(3, 30)
    picture = trace_picture((" the", " the", " the"), values=values, subject_span=(1, 2))
    axes = heatmap(picture).axes[0]
    assert row_labels(axes) == ["␣the", "␣the*", "␣the"]
    np.testing.assert_array_equal(mesh_of(axes).get_array(), values)


def test_many_cells_become_one_raster(trace_picture):
    small = heatmap(trace_picture(("a",) * 50, 40)).axes[0]
    assert (len(small.images), mesh_of(small).get_array().size) == (0, 2000)
    picture = trace_picture(("a",) * 51, 40)
    large = heatmap(picture).axes[0]
    assert len(large.images) == 1
    np.testing.assert_array_equal(large.images[0].get_array(), picture.values)
    assert large.get_ylim() == (50.5, -0.5)


def test_figures_grow_with_the_prompt_up_to_a_limit(trace_picture):
    sizes, fonts = [], []
    for n in (1, 10, 50, 200, 900):
        figure = heatmap(trace_picture(tuple(f" word{i}" for i in range(n)), 12))
        sizes.append(figure.get_size_inches()[1])
        fonts.append(figure.axes[0].get_yticklabels()[0].get_fontsize())
    assert sizes[0] < sizes[1] < sizes[2] < sizes[3] < 17
    assert sizes[4] < 17
    assert fonts[0] == 9 > fonts[3] >= 4
    assert fonts[4] == 4


def test_labels_of_a_very_long_prompt_have_room_and_keep_the_subject(trace_picture):
    words = tuple(f" word{i}" for i in range(900))
    axes = heatmap(trace_picture(words, 12, subject_span=(401, 403))).axes[0]
    assert "␣word401*" in row_labels(axes)
    rows = axes.get_yticks()
    points_per_row = 72 * 13 / 900
    assert all((b - a) * points_per_row >= 3.9 for a, b in pairwise(rows))
    labels = dict(zip(rows, row_labels(axes), strict=True))
    assert all(label.rstrip("*") == f"␣word{int(row)}" for row, label in labels.items())


@pytest.mark.parametrize("style", ["patchpoint", "rome"])
@pytest.mark.parametrize(
    ("tokens", "layers"),
    [
        ((" Paris",), 1),
        ((" Paris",), 30),
        (("a", "b", "c"), 6),
        (ODD, 48),
        (tuple("word" for _ in range(200)), 96),
    ],
)
def test_every_text_lies_inside_the_figure(trace_picture, style, tokens, layers):
    picture = trace_picture(
        tokens, layers, model="a-rather-long-organisation/with-a-long-model-name", answer="\n$x$"
    )
    figure = heatmap(picture, style=style)
    figure.savefig(BytesIO(), format="png")
    for text in drawn_texts(figure):
        box, page = text.get_window_extent(), figure.bbox
        assert box.x0 >= page.x0 - 1, text
        assert box.y0 >= page.y0 - 1, text
        assert box.x1 <= page.x1 + 1, text
        assert box.y1 <= page.y1 + 1, text


def test_caption_and_axis_title_do_not_overlap(trace_picture):
    figure = heatmap(trace_picture(("word",) * 80))
    figure.savefig(BytesIO(), format="png")
    caption = next(text for text in drawn_texts(figure) if text.get_text() == figure.get_supxlabel())
    assert caption.get_window_extent().y1 <= figure.axes[0].xaxis.label.get_window_extent().y0


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(exclude_categories=()), max_size=12), min_size=1, max_size=12))
def test_any_token_text_is_drawn_literally_and_without_a_warning(trace_picture, tokens):
    picture = trace_picture(tuple(tokens), 6, answer=tokens[0], model=tokens[-1], noise=tokens[0])
    figure = heatmap(picture)
    figure.savefig(BytesIO(), format="png")
    assert len(row_labels(figure.axes[0])) == len(tokens)


def test_dollar_signs_are_not_mathematics(trace_picture):
    figure = heatmap(trace_picture(("$x^2$", "$", "$\\nonsense{$"), answer="$y$", model="$m$"))
    figure.savefig(BytesIO(), format="png")
    assert row_labels(figure.axes[0])[0] == "$x^2$*"
    assert not any(text.get_parse_math() for text in drawn_texts(figure))


def test_a_users_own_matplotlib_settings_neither_matter_nor_change(trace_picture, tmp_path):
    plain = save(heatmap(trace_picture()), tmp_path / "plain.png").read_bytes()
    mine = {"text.usetex": True, "font.family": "serif", "font.size": 30, "axes.formatter.use_mathtext": True}
    with matplotlib.rc_context(mine):
        before = dict(matplotlib.rcParams)
        themed = save(heatmap(trace_picture()), tmp_path / "themed.png").read_bytes()
        assert dict(matplotlib.rcParams) == before
    assert themed == plain


def test_importing_pictures_loads_neither_pyplot_nor_plotly():
    bare = f"patchpoint = types.ModuleType('patchpoint'); patchpoint.__path__ = {list(patchpoint.__path__)}"
    code = f"import sys, types; {bare}; sys.modules['patchpoint'] = patchpoint; import patchpoint.plots; "
    code += "print({'matplotlib.pyplot', 'plotly'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


def test_panels_share_one_colour_scale_and_row_labels(trace_picture):
    loud = trace_picture(state="mlp", values=3 * trace_picture().values)
    figure = panels([trace_picture(), loud])
    first, second, bar = figure.axes
    limit = np.abs(loud.values).max()
    assert [(mesh_of(a).norm.vmin, mesh_of(a).norm.vmax) for a in (first, second)] == [(-limit, limit)] * 2
    assert bar.get_ylabel() == "indirect effect on p(␣Paris)"
    figure.savefig(BytesIO(), format="png")
    assert not any(label.get_visible() and label.get_text() for label in second.get_yticklabels())


def test_panels_of_other_tokens_have_their_own_row_labels_and_rome_hues_their_own_bars(trace_picture):
    other = trace_picture(("The", " Eiffel"), model="gpt2")
    assert row_labels(panels([trace_picture(), other]).axes[1]) == ["The*", "␣Eiffel*"]
    figure = panels([trace_picture(state=s) for s in ("resid", "mlp", "attn")], style="rome")
    assert len(figure.axes) == 6
    assert figure.get_supxlabel().count("Prompt") == 1


def test_panels_refuse_what_cannot_share_a_scale(trace_picture):
    with pytest.raises(InvalidArgument, match="agree on both"):
        panels([trace_picture(), trace_picture(metric="logit")])
    with pytest.raises(InvalidArgument, match="0 pictures"):
        panels([])


def test_unknown_styles_get_a_suggestion(trace_picture):
    with pytest.raises(UnknownName, match="unknown style 'Rome'; did you mean rome"):
        heatmap(trace_picture(), style="Rome")
