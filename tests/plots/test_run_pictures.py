"""Pictures of live and saved traces."""

from dataclasses import asdict

import numpy as np
import pytest

import patchpoint as pp
from patchpoint.experiments import FactSettings
from patchpoint.experiments.fact_run import record_of, trace_facts
from patchpoint.plots.run import Look, draw_run, formats_named, role_picture, saved_pictures, trace_picture
from patchpoint.results import Store, open_run
from patchpoint.tasks.facts import read_facts
from words import tiny_model


@pytest.fixture
def saved(tmp_path):
    """A run of two facts on disk."""
    path = tmp_path / "facts.csv"
    path.write_text("prompt,subject,attribute\nw1 w2 w3,w2,w4\nw5 w6 w7 w8,w5,w9\n")
    model, facts = tiny_model("gpt2"), read_facts(path)
    settings = FactSettings(samples=2, answer="attribute", noise="0.5")
    record = record_of(model, asdict(settings), settings.seed, facts.sha256)
    with Store.create_or_resume(tmp_path / "run", record) as store:
        trace_facts(model, facts, store, settings)
    return open_run(tmp_path / "run")


def test_a_live_trace_and_its_saved_run_give_one_picture(saved):
    live = trace_picture(
        pp.trace(tiny_model("gpt2"), "w1 w2 w3", subject="w2", answer="w4", samples=2, noise=0.5)
    )
    number, picture = next(iter(saved_pictures(saved)))
    assert number == 1
    np.testing.assert_allclose(picture.values, live.values, atol=1e-6)
    np.testing.assert_allclose(picture.standard_error, live.standard_error, atol=1e-6)
    assert picture.caption == live.caption


def test_every_fact_and_the_average_are_drawn(saved, tmp_path):
    paths = draw_run(saved, tmp_path / "pictures", Look(("svg", "html")))
    assert {path.name for path in paths} == {
        "average-by-role.svg",
        "fact-000001.svg",
        "fact-000002.svg",
        "facts.html",
    }
    assert all(path.stat().st_size > 1000 for path in paths)
    assert role_picture(saved).count.tolist() == [2, 0, 0, 2, 1, 1]


def test_formats_are_read_from_a_list_with_commas():
    assert formats_named("png, html,png") == ("png", "html")
    with pytest.raises(pp.PatchpointError, match="unknown picture format 'gif'"):
        Look(("gif",))
