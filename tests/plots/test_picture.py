import dataclasses

import numpy as np
import pytest

from patchpoint.errors import InvalidArgument, PatchpointError, UnknownName
from patchpoint.plots.settings import how


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"values": np.zeros((30, 10))}, r"values has shape \(30, 10\), expected \(10, 30\)"),
        ({"values": np.full((10, 30), np.inf)}, "infinite"),
        ({"values": "abc"}, "cannot read"),
        ({"values": [[1, 2], [3]]}, "cannot read"),
        ({"standard_error": np.zeros((2, 2))}, "standard_error has shape"),
        ({"standard_error": np.full((10, 30), -1.0)}, "no negative"),
        ({"tokens": "The Eiffel"}, "sequence of texts"),
        ({"tokens": (1, 2)}, "sequence of texts"),
        ({"tokens": ()}, "at least one"),
        ({"layers": ()}, "at least one"),
        ({"subject_span": (3, 3)}, "subject_span"),
        ({"subject_span": (-1, 3)}, "subject_span"),
        ({"subject_span": (0, 11)}, "expected 0 <= start < stop <= 10"),
        ({"p_clean": float("nan")}, "p_clean"),
        ({"p_corrupt": float("inf")}, "p_corrupt"),
        ({"samples": 0}, "samples is 0"),
        ({"samples": "10"}, "samples is '10'"),
        ({"window": -1}, "window is -1"),
    ],
)
def test_bad_traces_are_refused_in_one_line(trace_picture, change, words):
    with pytest.raises(InvalidArgument, match=words) as caught:
        trace_picture(**change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["state", "direction", "metric"])
def test_unknown_names_are_refused(trace_picture, kind):
    with pytest.raises(UnknownName, match=f"unknown {kind} 'nonsense'"):
        trace_picture(**{kind: "nonsense"})


def test_a_picture_is_frozen_and_leaves_its_source_alone(trace_picture):
    source = np.zeros((10, 30), dtype=np.float32)
    picture = trace_picture(values=source)
    source[0, 0] = 5
    assert picture.values[0, 0] == 0
    source[0, 0] = 6
    with pytest.raises(ValueError, match="read-only"):
        picture.values[0, 0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        picture.seed = 1


def test_the_patched_metric_starts_from_the_run_that_was_patched(trace_picture):
    restore, corrupt = trace_picture(), trace_picture(direction="corrupt")
    np.testing.assert_allclose(restore.p_restored, 0.0123 + restore.values)
    np.testing.assert_allclose(corrupt.p_restored, 0.662 + corrupt.values)


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("prob", "p(␣Paris)"),
        ("logprob", "log p(␣Paris)"),
        ("logit", "logit(␣Paris)"),
        ("logit_diff", "logit difference"),
    ],
)
def test_the_metric_is_named_with_its_answer(trace_picture, metric, words):
    picture = trace_picture(metric=metric)
    assert picture.value_title == f"indirect effect on {words}"
    assert picture.caption[2].startswith(f"{words}: 0.662 clean")


def test_answers_with_braces_are_not_formats(trace_picture):
    assert trace_picture(answer="{}{0}").measured == "p({}{0})"


def test_one_sample_is_not_plural(trace_picture):
    assert how(trace_picture(samples=1)) == "Noise s3 (std 0.112), 1 sample, seed 7"


def test_every_refusal_is_a_patchpoint_error():
    assert issubclass(InvalidArgument, PatchpointError)
    assert issubclass(UnknownName, PatchpointError)
