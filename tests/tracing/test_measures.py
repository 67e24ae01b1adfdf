"""Measures read off a heatmap, against their definitions written out."""

import numpy as np
import pytest

import patchpoint as pp
from patchpoint.tracing.grid import Grid, grid_of
from patchpoint.tracing.measures import MEASURES, measure_named
from words import tiny_model


def grid(effect, **changes):
    effect = np.array(effect)
    given = {
        "number": 1,
        "prompt": "a b",
        "subject": "a",
        "answer": " c",
        "tokens": tuple("ab"[: len(effect)]),
        "subject_span": (0, 1),
        "p_clean": 0.9,
        "p_corrupt": 0.4,
        "direction": "restore",
        "effect": effect,
        "effect_se": np.zeros(effect.shape),
        "exact": np.ones(effect.shape, dtype=bool),
    }
    return Grid(**{**given, **changes})


EFFECT = [[0.25, -0.1], [np.nan, 0.0]]


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("indirect_effect", {}, EFFECT),
        ("indirect_effect_cut", {}, [[0.25, 0.0], [np.nan, 0.0]]),
        ("indirect_effect_cut", {"direction": "corrupt"}, [[0.0, -0.1], [np.nan, 0.0]]),
        ("percent_improvement", {}, [[0.5, -0.2], [np.nan, 0.0]]),
        ("percent_improvement", {"p_clean": 0.4, "p_corrupt": 0.9}, [[0.5, -0.2], [np.nan, 0.0]]),
        ("percent_improvement_cut", {}, [[0.5, 0.0], [np.nan, 0.0]]),
        ("percent_improvement_cut", {"direction": "corrupt"}, [[0.0, -0.2], [np.nan, 0.0]]),
        ("percent_improvement", {"p_clean": 0.4}, [[np.nan] * 2] * 2),
        ("percent_improvement_cut", {"p_corrupt": np.nan}, [[np.nan] * 2] * 2),
    ],
)
def test_a_measure_is_its_definition(name, changes, expected):
    got = MEASURES[name](grid(EFFECT, **changes))
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, expected, atol=1e-12)


def test_measuring_leaves_the_heatmap_alone_and_every_title_differs():
    one = grid(EFFECT)
    for measure in MEASURES.values():
        measure(one)
    np.testing.assert_array_equal(one.effect, EFFECT)
    assert len({measure.title for measure in MEASURES.values()}) == 4


def test_an_unknown_measure_gets_a_suggestion():
    with pytest.raises(pp.errors.UnknownName, match="did you mean percent_improvement"):
        measure_named("percent_improvment")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"direction": "restor"}, "unknown direction 'restor'; did you mean restore"),
        (
            {"exact": np.ones((2, 1), dtype=bool)},
            r"fact 1 has effect \(2, 2\), .*expected \(2 tokens, layers\)",
        ),
        ({"tokens": ("a", "b", "c")}, r"expected \(3 tokens, layers\)"),
        ({"subject_span": (0, 3)}, "the span 0:3 of 'subject' is not within its 2 tokens"),
        ({"spans": {"fact 1": (1, 0)}}, "the span 1:0 of 'fact 1' is not within"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(pp.PatchpointError, match=message):
        grid(EFFECT, **changes)


@pytest.mark.parametrize("direction", ["restore", "corrupt"])
def test_a_live_trace_gives_its_heatmap(direction):
    live = pp.trace(tiny_model("gpt2"), "w5 w9 w13 w2", subject="w9 w13", samples=2, direction=direction)
    got = grid_of(live, 7)
    assert (got.number, got.prompt, got.subject) == (7, "w5 w9 w13 w2", "w9 w13")
    assert (got.tokens, got.subject_span, got.answer) == (live.tokens, (1, 3), live.answer)
    assert (got.direction, got.total_effect) == (direction, live.p_clean - live.p_corrupt)
    start = live.p_corrupt if direction == "restore" else live.p_clean
    np.testing.assert_allclose(got.effect, live.p_restored.values - start, atol=1e-6)
    np.testing.assert_array_equal(got.effect_se, live.effect_se.values)
    assert got.exact.all()
