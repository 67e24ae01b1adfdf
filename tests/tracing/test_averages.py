"""Averages by role with their intervals, against loops written plainly."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import patchpoint as pp
from patchpoint.tracing import ROLES, average_by_role
from patchpoint.tracing.averages import role_averages, strata
from patchpoint.tracing.grid import Grid

FIRST, MIDDLE, LAST, NEXT, FURTHER, END = ROLES
N_LAYERS = 2


def made(shape, number=1, seed=0, holes=0.0, **changes):
    """A heatmap of random effects; `shape` is how many tokens stand before, in and behind the subject."""
    before, subject, after = shape
    n_tokens = before + subject + after
    generator = np.random.default_rng((seed, number))
    effect = generator.normal(size=(n_tokens, N_LAYERS))
    effect[generator.random(effect.shape) < holes] = np.nan
    given = {
        "number": number,
        "prompt": "p",
        "subject": "s",
        "answer": " a",
        "tokens": ("t",) * n_tokens,
        "subject_span": (before, before + subject),
        "p_clean": 0.8,
        "p_corrupt": 0.3,
        "direction": "restore",
        "effect": effect,
        "effect_se": np.zeros(effect.shape),
        "exact": np.ones(effect.shape, dtype=bool),
    }
    return Grid(**{**given, **changes})


def role_by_hand(grid, position):
    start, stop = grid.subject_span
    end = len(grid.tokens) - 1
    if position < start:
        return None
    if position == start:
        return FIRST
    if position < stop:
        return LAST if position == stop - 1 else MIDDLE
    if position == stop:
        return NEXT
    return END if position == end else FURTHER


def values_by_fact(grids, role, layer):
    """For each fact the values of its tokens of a role, NaN left out."""
    return [
        [
            float(grid.effect[position, layer])
            for position in range(len(grid.tokens))
            if role_by_hand(grid, position) == role and not np.isnan(grid.effect[position, layer])
        ]
        for grid in grids
    ]


def interval_by_hand(per_fact, resamples, confidence, seed):
    """Facts drawn by the same numbers of times, put together as lists, averaged one resample at a time."""
    n = len(per_fact)
    times = np.random.default_rng(seed).multinomial(n, [1 / n] * n, size=resamples)
    means = []
    for counts in times:
        drawn = [
            value for values, count in zip(per_fact, counts, strict=True) for value in values * int(count)
        ]
        if drawn:
            means.append(sum(drawn) / len(drawn))
    means.sort()

    def percentile(share):
        place = share * (len(means) - 1)
        below = int(np.floor(place))
        above = min(below + 1, len(means) - 1)
        return means[below] + (place - below) * (means[above] - means[below])

    return percentile((1 - confidence) / 2), percentile((1 + confidence) / 2)


SHAPES = st.tuples(st.integers(0, 2), st.integers(1, 3), st.integers(0, 4))
"""With one-token subjects, subjects at the very end, and a last token that is also the first subsequent one."""


@given(shapes=st.lists(SHAPES, min_size=1, max_size=6), holes=st.sampled_from([0.0, 0.4]))
def test_every_number_is_that_of_the_plain_loop(shapes, holes):
    grids = [made(shape, number, holes=holes) for number, shape in enumerate(shapes, start=1)]
    got = role_averages(grids, resamples=40, confidence=0.8, seed=3)
    assert dict(got.sizes) == {"role": len(ROLES), "layer": N_LAYERS}
    for role in ROLES:
        for layer in range(N_LAYERS):
            per_fact = values_by_fact(grids, role, layer)
            every = [value for values in per_fact for value in values]
            n_facts = sum(bool(values) for values in per_fact)
            found = {name: got[name].sel(role=role, layer=layer).item() for name in got}
            assert found["count"] == len(every)
            assert found["facts"] == n_facts
            want = {
                "mean": np.mean(every) if every else np.nan,
                "std": np.std(every, ddof=1) if len(every) > 1 else np.nan,
            }
            hand = interval_by_hand(per_fact, 40, 0.8, 3) if n_facts > 1 else (np.nan, np.nan)
            want["low"], want["high"] = hand
            for name, value in want.items():
                np.testing.assert_allclose(found[name], value, atol=1e-12, err_msg=f"{name}, {role}")


@given(shapes=st.lists(SHAPES, min_size=1, max_size=6), order=st.randoms())
def test_the_order_of_facts_does_not_matter(shapes, order):
    grids = [made(shape, number) for number, shape in enumerate(shapes, start=1)]
    mixed = order.sample(grids, len(grids))
    first, second = role_averages(grids, resamples=5), role_averages(mixed, resamples=5)
    for name in ("mean", "std", "count", "facts"):
        np.testing.assert_allclose(first[name], second[name], atol=1e-12)


@given(shapes=st.lists(SHAPES, min_size=1, max_size=6))
def test_without_gaps_it_is_the_published_average(shapes):
    grids = [made(shape, number) for number, shape in enumerate(shapes, start=1)]
    starred = [
        ["t*" if g.subject_span[0] <= i < g.subject_span[1] else "t" for i in range(len(g.tokens))]
        for g in grids
    ]
    published = average_by_role([g.effect for g in grids], starred)
    got = role_averages(grids, resamples=2)
    for name in published:
        np.testing.assert_array_equal(got[name], published[name])


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    covered = []
    for seed in range(200):
        grids = [made((0, 1, 0), number, seed=seed) for number in range(40)]
        got = role_averages(grids, resamples=300, confidence=0.9).sel(role=FIRST)
        covered += ((got["low"] < 0) & (got["high"] > 0)).values.tolist()
    assert 0.83 < np.mean(covered) < 0.94


def test_tokens_of_one_fact_are_not_independent_observations():
    """Facts that differ, tokens that do not: the interval is that of facts, whatever the number of tokens."""
    effects = np.linspace(-1, 1, 20)
    few, many = (
        role_averages(
            [
                made((0, n, 0), number, effect=np.full((n, N_LAYERS), effect))
                for number, effect in enumerate(effects)
            ]
        ).sel(role=MIDDLE)
        for n in (3, 30)
    )
    np.testing.assert_allclose(few["low"], many["low"], atol=1e-12)
    np.testing.assert_allclose(few["high"], many["high"], atol=1e-12)
    assert float(few["high"][0]) > 0.2


def test_one_seed_gives_one_interval_and_a_wider_confidence_a_wider_one():
    grids = [made((1, 2, 2), number) for number in range(12)]
    first, again, other = (role_averages(grids, seed=seed) for seed in (1, 1, 2))
    assert first.identical(again)
    assert not first["low"].equals(other["low"])
    wide, narrow = role_averages(grids, confidence=0.99), role_averages(grids, confidence=0.5)
    here = wide["facts"] > 1
    assert ((wide["low"] < narrow["low"]) & (narrow["low"] < wide["mean"]) | ~here).all()
    assert ((wide["high"] > narrow["high"]) & (narrow["high"] > wide["mean"]) | ~here).all()


def test_one_fact_has_no_interval():
    got = role_averages([made((1, 2, 2))])
    assert got["mean"].sel(role=FIRST).notnull().all()
    assert got["low"].isnull().all()
    assert got["high"].isnull().all()


def test_the_measure_is_what_is_averaged():
    grids = [made((0, 2, 1), number, p_clean=0.3 + number / 10) for number in range(3)]
    got = role_averages(grids, "percent_improvement_cut", resamples=5).sel(role=FIRST)
    per_fact = [np.maximum(g.effect[0] / abs(g.total_effect), 0) for g in grids[1:]]
    assert grids[0].total_effect == 0
    np.testing.assert_allclose(got["mean"], np.mean(per_fact, axis=0))
    assert got["facts"].values.tolist() == [2, 2]


@pytest.mark.parametrize(
    ("grids", "options", "message"),
    [
        ([], {}, "no facts to average"),
        ([made((0, 1, 1))], {"measure": "indirect_efect"}, "unknown measure 'indirect_efect'; did you mean"),
        ([made((0, 1, 1))], {"resamples": 0}, "resamples must be at least 1, got 0"),
        ([made((0, 1, 1))], {"confidence": 1.0}, "between 0 and 1, got 1.0"),
        ([made((0, 1, 1))], {"confidence": float("nan")}, "between 0 and 1, got nan"),
        (
            [
                made((0, 1, 1)),
                made(
                    (0, 1, 0),
                    2,
                    effect=np.zeros((1, 3)),
                    effect_se=np.zeros((1, 3)),
                    exact=np.ones((1, 3), dtype=bool),
                ),
            ],
            {},
            "fact 2 has 3 layers and fact 1 2",
        ),
    ],
)
def test_bad_input_is_refused(grids, options, message):
    with pytest.raises(pp.PatchpointError, match=message):
        role_averages(grids, **options)


@given(lengths=st.lists(st.integers(1, 12), max_size=30), bands=st.integers(1, 6))
def test_strata_part_the_facts_by_length(lengths, bands):
    grids = [made((0, length, 0), number) for number, length in enumerate(lengths)]
    got = strata(grids, bands=bands)
    assert sorted(g.number for inside in got.values() for g in inside) == list(range(len(grids)))
    assert len(got) <= bands
    ends = [
        (min(sizes), max(sizes)) for inside in got.values() for sizes in [[len(g.tokens) for g in inside]]
    ]
    assert ends == sorted(ends)
    assert all(before[1] < after[0] for before, after in pairwise(ends))
    for name, (least, most) in zip(got, ends, strict=True):
        assert name.split()[0] == (str(least) if least == most else f"{least}-{most}")


def test_strata_hold_about_equally_many_and_are_named_by_their_lengths():
    grids = [made((0, length, 0), number) for number, length in enumerate([8, 7, 6, 5, 4, 3, 2, 1])]
    assert {name: len(inside) for name, inside in strata(grids).items()} == {
        "1-2 tokens": 2,
        "3-4 tokens": 2,
        "5-6 tokens": 2,
        "7-8 tokens": 2,
    }
    same = strata([made((0, 1, 0), number) for number in range(5)])
    assert {name: len(inside) for name, inside in same.items()} == {"1 token": 5}
    with pytest.raises(pp.PatchpointError, match="bands must be at least 1"):
        strata(grids, bands=0)
