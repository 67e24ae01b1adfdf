"""The picture of sentences in front of the prompts."""

import numpy as np
import pytest
import xarray as xr

from patchpoint.errors import InvalidArgument
from patchpoint.plots.places import place_heatmap

TEXT = ["A", " B", "<b>$x$</b>", "first subject token", "last token"]


@pytest.fixture
def places():
    mean = np.linspace(-0.5, 0.4, 20).reshape(5, 4)
    mean[3] = np.nan
    parts = {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "count": np.where(np.isnan(mean), 0, 7)}
    coords = {
        "place": range(5),
        "layer": range(4),
        "text": ("place", TEXT),
        "is_token": ("place", [True] * 3 + [False] * 2),
    }
    return xr.Dataset({k: (("place", "layer"), v) for k, v in parts.items()}, coords, {"confidence": 0.95})


def test_cells_labels_and_dots_are_those_of_the_data(places, about):
    axes = place_heatmap(places, about()).axes[0]
    cells = axes.collections[0].get_array()
    np.testing.assert_allclose(np.ma.filled(cells, np.nan), places["mean"])
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [
        "A",
        "␣B",
        "<b>$x$</b>",
        "first subject token",
        "last token",
    ]
    dots = sum(len(part.get_offsets()) for part in axes.collections[1:])
    assert dots == int(((places["low"] > 0) | (places["high"] < 0)).sum())


def test_a_dataset_without_intervals_is_refused(places, about):
    with pytest.raises(InvalidArgument, match="without 'low'"):
        place_heatmap(places.drop_vars("low"), about())
