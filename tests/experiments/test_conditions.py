"""What every condition of an experiment goes through: which facts are scored, how, and where results are kept."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from patchpoint import experiments
from patchpoint.errors import PatchpointError
from patchpoint.tasks.facts import FactFile


def numbers(grids):
    return tuple(grid.number for grid in grids)


def _top_ten(effects):
    return {*np.argsort(-effects, kind="stable")[:10].tolist()}


def test_the_answer_may_be_the_last_token_of_the_files_prediction(lab):
    facts = [replace(fact, prediction=" w77 w20") for fact in lab.facts.facts[:1]]
    of_file = FactFile(tuple(facts), (), Path("facts.json"), "predictions")
    settings = replace(lab.settings, answer="token", noise="0.5")
    (grid,) = experiments.gaussian(lab.model, of_file, settings=settings).grids("restored")
    assert grid.answer.strip() == "w20"
    lab.same(grid, lab.noise(1, 0.5), samples=3)
    with pytest.raises(PatchpointError, match="gives no prediction"):
        experiments.gaussian(lab.model, lab.facts, settings=settings)


@pytest.mark.parametrize("method", ["attribution", "screen"])
def test_an_approximation_is_measured_against_the_exact_sweep(lab, method):
    settings = replace(lab.settings, method=method)
    work = experiments.Work(checked=2)
    found = experiments.gaussian(lab.model, lab.facts, limit=3, settings=settings, work=work)
    measured = found.conditions["restored"]
    assert numbers(measured.grids) == (1, 2, 3)
    exact = experiments.gaussian(lab.model, lab.facts, limit=2, settings=lab.settings).grids("restored")
    pairs = [
        [mine.effect[lab.span(mine.number)[0] :].ravel() for mine in both]
        for both in zip(measured.grids[:2], exact, strict=True)
    ]
    correlations = [pd.Series(a).rank().corr(pd.Series(b).rank()) for a, b in pairs]
    recalls = [len(_top_ten(a) & _top_ten(b)) / min(10, len(a)) for a, b in pairs]
    np.testing.assert_allclose(measured.agreement["mean"], [np.mean(correlations), np.mean(recalls)])
    (again,) = experiments.gaussian(lab.model, lab.facts, limit=1, settings=lab.settings).conditions.values()
    assert again.agreement is None


def test_facts_that_the_model_does_not_answer_are_skipped(lab):
    with pytest.raises(PatchpointError, match=r"no fact could be traced.*5 left out"):
        experiments.gaussian(lab.model, lab.facts, settings=replace(lab.settings, answer="predicted"))
    answered = lab.answered()
    found = experiments.gaussian(
        lab.model, answered.facts, limit=2, settings=replace(lab.settings, answer="predicted")
    )
    assert numbers(found.grids("restored")) == (1, 2)
    for grid in found.grids("restored"):
        answered.same(grid, answered.noise(grid.number), samples=3)


def test_conditions_that_experiments_share_are_measured_once(lab, tmp_path):
    outcomes = []
    work = experiments.Work(out=tmp_path, on_outcome=outcomes.append)
    experiments.gaussian(lab.model, lab.facts, limit=2, settings=lab.settings, work=work)
    before = _tables(tmp_path)
    traced = len(outcomes)
    found = experiments.wrong_direction(lab.model, lab.facts, limit=2, settings=lab.settings, work=work)
    after = _tables(tmp_path)
    assert len(after) == 2 * len(before)
    assert before.items() <= after.items(), "a table was written again"
    assert len(outcomes) == traced + 4, "two facts found on disk, two traced"
    for grid in found.grids("restored"):
        lab.same(grid, lab.noise(grid.number), samples=3)


def _tables(out):
    """When each table under a folder was written, and its bytes."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.rglob("*.parquet")}
