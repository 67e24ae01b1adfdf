"""Averages by token role, against the rule written out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import patchpoint as pp
from patchpoint.tracing import ROLES, average_by_role
from patchpoint.tracing.roles import role_of

FIRST, MIDDLE, LAST, NEXT, FURTHER, END = ROLES


def roles(text):
    marks = [token.endswith("*") for token in text.split()]
    return [role_of(position, marks) for position in range(len(marks))]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (
            "The* E* iff* el* is in the city of",
            [FIRST, MIDDLE, MIDDLE, LAST, NEXT, FURTHER, FURTHER, FURTHER, END],
        ),
        ("In Rome* they speak", [None, FIRST, NEXT, END]),
        ("A* is", [FIRST, NEXT]),
        ("of A* B*", [None, FIRST, LAST]),
        ("A*", [FIRST]),
        ("x y", [None, None]),
    ],
)
def test_the_published_rule(tokens, expected):
    assert roles(tokens) == expected


def test_mean_std_and_count_are_over_every_token_of_every_fact():
    first = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    second = np.array([[10.0, 20.0], [30.0, 40.0], [50.0, 60.0], [70.0, 80.0], [90.0, 100.0]])
    got = average_by_role([first, second], [["a*", "b", "c", "d"], ["p", "q*", "r", "s", "t"]])
    assert got["count"].sel(role=FIRST).values.tolist() == [2, 2]
    np.testing.assert_allclose(got["mean"].sel(role=FIRST), [15.5, 21.0])
    np.testing.assert_allclose(got["std"].sel(role=FIRST), [np.std([1, 30], ddof=1), np.std([2, 40], ddof=1)])
    np.testing.assert_allclose(got["mean"].sel(role=FURTHER), [(5 + 70) / 2, (6 + 80) / 2])
    assert got["count"].sel(role=MIDDLE).values.tolist() == [0, 0]
    assert np.isnan(got["mean"].sel(role=MIDDLE)).all()
    assert got["mean"].dims == got["std"].dims == got["count"].dims == ("role", "layer")


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(0, 5)), min_size=1, max_size=5))
def test_each_token_from_the_subject_on_counts_once(shapes):
    effects, tokens = [], []
    for before, subject, after in shapes:
        tokens.append(["x"] * before + ["s*"] * subject + ["y"] * after)
        effects.append(np.ones((len(tokens[-1]), 3)))
    got = pp.tracing.average_by_role(effects, tokens)
    assert int(got["count"].sel(layer=0).sum()) == sum(subject + after for _, subject, after in shapes)


@pytest.mark.parametrize(
    ("effects", "tokens", "message"),
    [
        ([], [], "0 effects for 0 token lists"),
        ([np.ones((2, 3))], [["a*"]], "fact 0 has effects of shape"),
        ([np.ones((1, 3)), np.ones((1, 4))], [["a*"], ["a*"]], "fact 1 has effects of shape"),
    ],
)
def test_lists_that_do_not_fit_are_refused(effects, tokens, message):
    with pytest.raises(pp.PatchpointError, match=message):
        average_by_role(effects, tokens)
