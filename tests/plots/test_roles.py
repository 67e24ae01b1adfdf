from io import BytesIO

import numpy as np
import pytest
from matplotlib.collections import QuadMesh

from patchpoint.errors import InvalidArgument, UnknownName
from patchpoint.plots import role_heatmap


def mesh_of(axes):
    return next(artist for artist in axes.get_children() if isinstance(artist, QuadMesh))


def test_two_panels_hold_mean_and_standard_deviation(role_picture):
    picture = role_picture()
    means, deviations, *bars = role_heatmap(picture).axes
    for axes, expected in ((means, picture.mean), (deviations, picture.std)):
        cells = mesh_of(axes).get_array()
        np.testing.assert_array_equal(cells.filled(np.nan), expected)
    limit = np.nanmax(np.abs(picture.mean))
    assert (mesh_of(means).norm.vmin, mesh_of(means).norm.vmax) == (-limit, limit)
    assert (mesh_of(deviations).norm.vmin, mesh_of(deviations).norm.vmax) == (0, np.nanmax(picture.std))
    titles = [bar.get_ylabel().replace("\n", " ") for bar in bars]
    assert titles == ["mean indirect effect on p(answer)", "standard deviation of effect on p(answer)"]


def test_rows_are_roles_with_their_number_of_tokens(role_picture):
    labels = [label.get_text() for label in role_heatmap(role_picture()).axes[0].get_yticklabels()]
    assert labels == [
        "first subject token (n = 100)",
        "middle subject tokens (n = 0)",
        "last subject token (n = 84)",
        "first subsequent token (n = 1)",
        "further tokens (n = 1,234)",
        "last token (n = 100)",
    ]


def test_empty_rows_are_grey_and_say_why(role_picture):
    means, deviations, *_ = role_heatmap(role_picture()).axes
    assert [(t.get_text(), t.get_position()[1]) for t in means.texts] == [("no tokens", 1)]
    assert [(t.get_text(), t.get_position()[1]) for t in deviations.texts] == [
        ("no tokens", 1),
        ("one token", 3),
    ]
    red, green, blue, _ = mesh_of(means).to_rgba(mesh_of(means).get_array())[1, 0]
    assert red == green == blue < 0.9


def test_rome_style_cuts_means_off_at_zero(role_picture):
    picture = role_picture(state="mlp")
    mesh = mesh_of(role_heatmap(picture, style="rome").axes[0])
    np.testing.assert_array_equal(mesh.get_array().filled(np.nan), np.maximum(picture.mean, 0))
    assert mesh.norm.vmin == 0
    assert mesh.get_cmap().name == "Greens"


def test_caption_says_how_it_was_made(role_picture):
    figure = role_heatmap(role_picture(window=4, state="attn"))
    figure.savefig(BytesIO(), format="png")
    caption = figure.get_supxlabel().replace("\n", " ")
    for words in (
        "smollm2-135m",
        "window of 4 layers",
        "100 facts of facts.json",
        "s3",
        "10 samples",
        "seed 7",
    ):
        assert words in caption


def test_counts_may_repeat_along_layers(role_picture):
    count = np.array([100, 0, 84, 1, 1234, 100])
    picture = role_picture(count=np.repeat(count[:, None], 30, axis=1))
    np.testing.assert_array_equal(picture.count, count)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mean": np.zeros((5, 30))}, "mean has shape"),
        ({"std": np.full((6, 30), -1.0)}, "expected no negative"),
        ({"count": np.arange(5)}, "each of the 6 roles"),
        ({"count": np.arange(180).reshape(6, 30)}, "each of the 6 roles"),
        ({"count": [1, 2, 3, 4, 5, 0.5]}, "each of the 6 roles"),
        ({"roles": "abcdef"}, "sequence of texts"),
        ({"layers": ()}, "at least one of each"),
    ],
)
def test_bad_averages_are_refused(role_picture, change, words):
    with pytest.raises(InvalidArgument, match=words):
        role_picture(**change)


def test_unknown_styles_get_a_suggestion(role_picture):
    with pytest.raises(UnknownName, match="did you mean rome"):
        role_heatmap(role_picture(), style="rom")
