"""Experiments of one or two conditions: every heatmap equals the hook loop's, and so do the findings."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import reference_tracing
from laboratory import Laboratory, ids_of
from patchpoint import experiments
from patchpoint.tasks.facts import Fact, FactFile
from patchpoint.tasks.subject import SubjectPrompt
from patchpoint.tracing import ROLES, average_by_role
from patchpoint.tracing.corruption import corruptor_of
from patchpoint.tracing.roles import role_of

ALL = (1, 2, 3, 4, 5)


def numbers(grids):
    return tuple(grid.number for grid in grids)


def by_role(lab, effects):
    """{role: [fact's mean over its tokens of that role, by layer]}, facts without one left out."""
    found = {role: [] for role in ROLES}
    for number, effect in effects.items():
        start, stop = lab.span(number)
        subject = [start <= i < stop for i in range(len(effect))]
        for role in ROLES:
            rows = [effect[i] for i in range(len(effect)) if role_of(i, subject) == role]
            if rows:
                found[role].append(np.mean(rows, axis=0))
    return found


def without_rounding(effect):
    """The loop compares runs of different batches, whose last bits differ where nothing was changed."""
    return np.where(np.abs(effect) < 1e-8, 0.0, effect)


def same_shares(lab, found, effects, sign):
    for role, rows in by_role(lab, effects).items():
        row = found.sel(role=role)
        np.testing.assert_array_equal(row["count"], len(rows))
        if rows:
            np.testing.assert_allclose(row["share"], np.mean(sign * np.array(rows) < 0, axis=0), atol=1e-12)
            assert (row["low"].isnull() | (row["low"] <= row["share"])).all()
            assert (row["high"].isnull() | (row["high"] >= row["share"])).all()


def test_gaussian(lab):
    found = experiments.gaussian(lab.model, lab.facts, settings=lab.settings)
    assert list(found.conditions) == ["restored"]
    grids = found.grids("restored")
    assert numbers(grids) == ALL
    effects = [lab.same(grid, lab.noise(grid.number), samples=3) for grid in grids]
    starred = [
        [word + "*" * (start <= i < stop) for i, word in enumerate(grid.tokens)]
        for grid, (start, stop) in zip(grids, (grid.subject_span for grid in grids), strict=True)
    ]
    want = average_by_role(effects, starred)
    got = found.average("restored")
    for name in ("mean", "std", "count"):
        np.testing.assert_allclose(got[name], want[name], atol=1e-6)
    totals = found.totals.set_index("fact")["total_effect"]
    np.testing.assert_allclose(totals, [grid.p_clean - grid.p_corrupt for grid in grids])
    ratio = found.averages.sel(condition="restored", measure="percent_improvement")["mean"]
    shares = [e / abs(grid.total_effect) for e, grid in zip(effects, grids, strict=True)]
    np.testing.assert_allclose(ratio, average_by_role(shares, starred)["mean"], atol=1e-3)


def test_gaussian_in_other_families(other_lab):
    found = experiments.gaussian(other_lab.model, other_lab.facts, limit=2, settings=other_lab.settings)
    assert numbers(found.grids("restored")) == (1, 2)
    for grid in found.grids("restored"):
        other_lab.same(grid, other_lab.noise(grid.number), samples=3)


def test_reverse(lab):
    found = experiments.reverse(lab.model, lab.facts, settings=lab.settings)
    for grid in found.grids("corrupted"):
        lab.same(grid, lab.noise(grid.number), samples=3, direction="corrupt")
    assert numbers(found.grids("corrupted")) == ALL


def test_wrong_direction(lab):
    found = experiments.wrong_direction(lab.model, lab.facts, settings=lab.settings)
    for condition, direction, sign in (("restored", "restore", 1), ("corrupted", "corrupt", -1)):
        effects = {
            grid.number: without_rounding(
                lab.same(grid, lab.noise(grid.number), samples=3, direction=direction)
            )
            for grid in found.grids(condition)
        }
        shares = found.findings[f"wrong sign, {condition}"]
        same_shares(lab, shares, effects, sign)
        assert 0 < float(shares["share"].mean()) < 1, (
            "signs of both kinds, or a flipped one would pass unseen"
        )


def test_an_exchange_that_cannot_matter_has_no_effect_and_no_sign(lab):
    """Behind the last layer only the last token is read."""
    found = experiments.wrong_direction(lab.model, lab.facts, settings=lab.settings)
    for condition in found.conditions:
        for grid in found.grids(condition):
            np.testing.assert_array_equal(grid.effect[:-1, -1], 0.0)
            np.testing.assert_array_equal(grid.effect[: grid.subject_span[0]], 0.0)


@pytest.mark.parametrize("noise", ["s3", "replace:s3"])
def test_random_embedding(lab, noise):
    found = experiments.random_embedding(
        lab.model, lab.facts, limit=3, settings=replace(lab.settings, noise=noise)
    )
    assert numbers(found.grids("random embedding")) == (1, 2, 3)
    prompts = [SubjectPrompt.from_text(lab.model, f.prompt, subject=f.subject) for f in lab.facts.facts]
    fitted = corruptor_of("m").fitted(lab.model, prompts)
    for grid in found.grids("random embedding"):
        values = fitted.drawn(lab.model, prompts[grid.number - 1], 3, 4).values
        disturbance = (
            lab.noise(grid.number, op="replace")
            if noise == "replace:s3"
            else [(0, "embed", range(*lab.span(grid.number)), None, "replace", values)]
        )
        lab.same(grid, disturbance, samples=3)


def test_shuffle(lab):
    found = experiments.shuffle(lab.model, lab.facts, settings=lab.settings)
    measured = found.conditions["shuffled"]
    assert numbers(measured.grids) == (1, 2, 4, 5)
    assert measured.n_skipped == 1
    for grid in measured.grids:
        if grid.number != 4:  # two tokens have one other order
            words = lab.fact(grid.number).prompt
            subject = lab.fact(grid.number).subject
            lab.same(grid, lab.words(words.replace(subject, " ".join(reversed(subject.split())))))


def test_token_swap_takes_every_subject_that_fits(lab):
    found = experiments.token_swap(lab.model, lab.facts, settings=replace(lab.settings, samples=10))
    measured = found.conditions["another subject"]
    assert numbers(measured.grids) == (1, 2, 5)
    assert measured.n_skipped == 2
    for grid in measured.grids:
        mine = lab.fact(grid.number)
        texts = [
            mine.prompt.replace(mine.subject, lab.fact(n).subject) for n in (1, 2, 5) if n != grid.number
        ]
        lab.same(grid, lab.words(*texts), samples=2)


def test_token_swap_prefers_subjects_of_the_same_relation(lab):
    found = experiments.token_swap(lab.model, lab.facts, settings=replace(lab.settings, samples=1))
    by_number = {grid.number: grid for grid in found.grids("another subject")}
    for number, other in ((1, 5), (5, 1)):
        mine = lab.fact(number)
        lab.same(by_number[number], lab.words(mine.prompt.replace(mine.subject, lab.fact(other).subject)))


def test_token_swap_exchanges_the_subject_where_it_stands_as_a_word(lab):
    rows = (("w13 w1 w2 w44", "w1", "w20"), ("w7 w6 w3", "w6", "w30"))
    facts = [Fact(n, *row) for n, row in enumerate(rows, start=1)]
    swap = Laboratory(lab.model, FactFile(tuple(facts), (), Path("facts.json"), "swap"))
    found = experiments.token_swap(swap.model, swap.facts, settings=swap.settings)
    first, second = found.grids("another subject")
    swap.same(first, swap.words("w13 w6 w2 w44"))
    swap.same(second, swap.words("w7 w1 w3"))


def test_rome(lab):
    found = experiments.rome(lab.model, lab.facts, limit=2, settings=replace(lab.settings, window=2))
    assert list(found.conditions) == ["resid", "mlp", "attn"]
    for state in found.conditions:
        assert numbers(found.grids(state)) == (1, 2)
        for grid in found.grids(state):
            lab.same(grid, lab.noise(grid.number), samples=3, state=state, window=2)


def test_severed(lab):
    found = experiments.severed(lab.model, lab.facts, limit=2, settings=lab.settings)
    for condition, sever in (("restored", None), ("mlp severed", "mlp"), ("attn severed", "attn")):
        assert numbers(found.grids(condition)) == (1, 2)
        for grid in found.grids(condition):
            lab.same(grid, lab.noise(grid.number), samples=3, sever=sever)


def test_fresh_noise(lab):
    found = experiments.fresh_noise(lab.model, lab.facts, limit=3, settings=lab.settings)
    common = {g.number: lab.same(g, lab.noise(g.number), samples=3) for g in found.grids("restored")}
    fresh = {}
    for grid in found.grids("fresh noise"):
        ids, first = ids_of(lab.fact(grid.number).prompt), grid.subject_span[0]
        n_layers = lab.model.n_layers
        (place, values) = _split(lab.noise(grid.number, samples=(len(ids) - first) * n_layers))

        def noise_at(token, layer, place=place, values=values, first=first, n_layers=n_layers):
            row = (max(token, first) - first) * n_layers + layer
            return [(*place, values[[row]])]

        answer = ids_of(lab.fact(grid.number).attribute)[0]
        restored, corrupt = reference_tracing.fresh(lab.model.hf, ids, noise_at, answer)
        effect = (restored - corrupt).mean(-1).double().numpy()
        effect[:first] = 0
        np.testing.assert_allclose(grid.effect, effect, atol=1e-6)
        assert grid.p_corrupt == pytest.approx(float(corrupt[first:].mean()), abs=1e-6)
        fresh[grid.number] = effect
    assert sorted(fresh) == sorted(common) == [1, 2, 3]
    new, old = by_role(lab, fresh), by_role(lab, common)
    for role in ROLES:
        if new[role]:
            got = found.findings["difference"]["mean"].sel(role=role)
            np.testing.assert_allclose(got, np.mean(new[role], 0) - np.mean(old[role], 0), atol=1e-6)
    alike = found.findings["agreement"]["mean"]
    # The very numbers, not the loop's: of effects that are equal, the order matters.
    tables = [
        {grid.number: grid.effect for grid in found.grids(name)} for name in ("fresh noise", "restored")
    ]
    pairs = [_from_subject(lab, number, *tables) for number in sorted(fresh)]
    correlations = [pd.Series(a).rank().corr(pd.Series(b).rank()) for a, b in pairs]
    recalls = [len(_top_ten(a) & _top_ten(b)) / min(10, len(a)) for a, b in pairs]
    assert float(alike[0]) == pytest.approx(np.mean(correlations), abs=1e-9)
    assert float(alike[1]) == pytest.approx(np.mean(recalls))


def _split(disturbance):
    ((*place, values),) = disturbance
    return place, values


def _top_ten(effects):
    return {*np.argsort(-effects, kind="stable")[:10].tolist()}


def _from_subject(lab, number, *tables):
    first = lab.span(number)[0]
    return [table[number][first:].ravel() for table in tables]
