"""`patchpoint experiment` as a user meets it: what it writes, what it says again, one line for every wrong request."""

import json
from html.parser import HTMLParser

import pandas as pd
import pytest

from patchpoint.experiments import FactSettings, gaussian
from patchpoint.experiments.catalogue import EXPERIMENTS
from patchpoint.tasks.facts import read_facts
from words import tiny_model

OPTIONS = {
    "vary-noise": ("--levels", "0.1,1"),
    "repeat": ("--seeds", "3"),
    "prefix": ("--sentences", "SENTENCES"),
    "fact-position": ("--sentences", "SENTENCES", "--orders", "2-1"),
    "calibrate": ("--ratio", "0.9", "--answer", "attribute"),
    "compare-models": ("--against", "OTHER"),
}
ON_ITS_OWN = ("calibrate",)
"""Experiments without heatmaps."""


@pytest.fixture(scope="session")
def other(tmp_path_factory):
    """A second model with the same tokenizer."""
    from families import tiny
    from words import word_tokenizer

    path = tmp_path_factory.mktemp("other")
    tiny("llama").save_pretrained(path)
    word_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def facts(tmp_path):
    path = tmp_path / "facts.jsonl"
    rows = [
        {
            "prompt": f"w{n + 1} w{n + 20} w{n + 30} w7 w{n + 40}",
            "subject": f"w{n + 20} w{n + 30}",
            "attribute": f"w{n + 60}",
        }
        for n in range(3)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def sentences(tmp_path):
    path = tmp_path / "sentences.json"
    path.write_text(json.dumps([["w50 w51", "w50 w52"], ["w53 w54", "w53 w55"]]))
    return path


@pytest.fixture
def experiment(run, folder, facts, tmp_path):
    def call(*words, answer=("--answer", "attribute")):
        given = ("--facts", facts, "--model", folder, "--out", tmp_path / "lab", "--pictures", "png")
        return run("experiment", *given, *words, *answer)

    return call


class Links(HTMLParser):
    """Every file that a page links to; scripts are refused."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        assert tag != "script"
        self.found += [value for name, value in attrs if name == "href" and tag == "a"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_leaves_tables_figures_and_a_page(name, experiment, other, sentences, tmp_path):
    places = {"SENTENCES": sentences, "OTHER": other}
    words = [places.get(word, word) for word in OPTIONS.get(name, ())]
    samples = [] if "samples" in EXPERIMENTS[name].fixes else ["--samples", 2]
    limit = ["--limit", 2] if "limit" in EXPERIMENTS[name].options else []
    answer = () if name == "calibrate" else ("--answer", "attribute")
    code, out, err = experiment(name, *words, *samples, *limit, "--json", answer=answer)
    assert code == 0, err
    (document,) = json.loads(out)["experiments"]
    made = tmp_path / "lab" / name
    assert {path.suffix for path in made.iterdir()} >= {".csv", ".tex", ".png", ".html"}
    assert all(len(table) for table in document["tables"].values())
    if name not in ON_ITS_OWN:
        assert (made / "heatmaps.pdf").read_bytes().startswith(b"%PDF")
        table = pd.read_csv(made / "averages.csv")
        assert set(table["measure"]) >= {"indirect_effect", "percent_improvement_cut"}
        assert set(table["condition"]) == set(document["facts"])
    links = Links()
    links.feed((made / "index.html").read_text(encoding="utf-8"))
    assert links.found
    for link in links.found:
        assert (made / link).is_file(), link
    assert f"{name}/index.html" in (tmp_path / "lab" / "index.html").read_text(encoding="utf-8")


def test_numbers_are_those_of_the_function_whatever_was_interrupted(experiment, facts, tmp_path, monkeypatch):
    from patchpoint.experiments import fact_run

    real, calls = fact_run.trace, []

    def interrupted(*arguments, **settings):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **settings)

    monkeypatch.setattr(fact_run, "trace", interrupted)
    assert experiment("gaussian", "--samples", 2)[0] == 130
    code, _, _ = experiment("gaussian", "--samples", 2)
    assert (code, len(calls)) == (0, 4)
    result = gaussian(
        tiny_model("gpt2"), read_facts(facts), settings=FactSettings(samples=2, answer="attribute")
    )
    want = result.averages.to_dataframe().reset_index().dropna(subset="mean")
    got = pd.read_csv(tmp_path / "lab" / "gaussian" / "averages.csv")
    pd.testing.assert_frame_equal(
        got[["role", "layer", "mean", "low"]],
        want[["role", "layer", "mean", "low"]].reset_index(drop=True),
        check_dtype=False,
    )


def test_experiments_of_one_folder_share_what_they_measured(experiment, tmp_path, monkeypatch):
    experiment("gaussian", "--samples", 2)
    from patchpoint.experiments import fact_run

    real, seen = fact_run.trace, []
    monkeypatch.setattr(fact_run, "trace", lambda *a, **s: (seen.append(s["direction"]), real(*a, **s))[1])
    assert experiment("wrong-direction", "--samples", 2)[0] == 0
    assert set(seen) == {"corrupt"}


def test_the_page_says_a_command_and_a_call_that_give_the_same(experiment, run, tmp_path):
    experiment("gaussian", "--samples", 2, "--noise", "u0.5")
    page = (tmp_path / "lab" / "gaussian" / "index.html").read_text(encoding="utf-8")
    assert "--noise u0.5" in page
    assert "FactSettings(samples=2, noise=" in page


def test_all_runs_what_needs_no_other_model(experiment, monkeypatch, tmp_path):
    some = {name: EXPERIMENTS[name] for name in ("gaussian", "shuffle", "compare-models")}
    monkeypatch.setattr("patchpoint.cli.experiment.EXPERIMENTS", some)
    code, _, err = experiment("all", "--samples", 2, "--noise", "u1")
    assert code == 0, err
    assert {path.name for path in (tmp_path / "lab").iterdir()} == {
        "gaussian",
        "shuffle",
        "index.html",
        "measurements",
    }


def test_list_describes_every_experiment(run):
    code, out, _ = run("experiment", "list")
    assert code == 0
    code, text, _ = run("experiment", "list", "--json")
    document = json.loads(text)
    assert [one["name"] for one in document] == list(EXPERIMENTS)
    for name in EXPERIMENTS:
        assert name in out
    assert all(one["question"] and one["source"] for one in document)


def test_an_approximation_says_how_it_agrees(experiment, tmp_path):
    code, out, err = experiment(
        "gaussian", "--samples", 2, "--method", "attribution", "--checked", 2, "--json"
    )
    assert code == 0, err
    (document,) = json.loads(out)["experiments"]
    rows = {row["measure"]: row for row in document["tables"]["agreement-restored"]}
    assert -1 <= rows["rank correlation"]["mean"] <= 1
    assert 0 <= rows["recall of the top 10"]["mean"] <= 1
    assert rows["rank correlation"]["count"] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gausian"], "unknown experiment 'gausian'; did you mean gaussian"),
        (["gaussian", "--direction", "corrupt"], "gaussian sets direction itself; leave out --direction"),
        (["shuffle", "--noise", "s3"], "shuffle sets noise itself; leave out --noise"),
        (["gaussian", "--levels", "1,2"], "gaussian has no --levels; it takes --limit"),
        (["gaussian", "--noise", "x3"], "noise 'x3'"),
        (["gaussian", "--method", "exakt"], "unknown method 'exakt'; did you mean exact"),
        (["gaussian", "--limit", "0"], "limit must be at least 1"),
        (["gaussian", "--pictures", "gif"], "unknown picture format 'gif'"),
        (["vary-noise", "--levels", "1,two"], "'1,two' is no list of numbers"),
        (["vary-noise", "--levels", "1,-2"], "different positive standard deviations"),
        (
            ["fact-position", "--orders", "1-2"],
            "the order [1, 2] must name each of the sentences 1 to 5 once",
        ),
        (["fact-position", "--orders", "one"], "no list of orders"),
        (["prefix", "--sentences", "MISSING"], "cannot read sentences"),
        (["compare-models"], "give --against MODEL"),
        (["compare-models", "--against-dtype", "bfloat16"], "give --against MODEL as well"),
        (["compare-models", "--against", "SAME"], "give another one to compare with"),
        (["repeat", "--fact", "77"], "has no usable fact 77"),
        (["repeat", "--seeds", "1"], "seeds must be at least 2"),
        (["calibrate", "--ratio", "2"], "ratio"),
        (["calibrate", "--kind", "cauchy"], "unknown kind of noise to calibrate 'cauchy'"),
        (["severed", "--state", "mlp"], "severed sets state itself"),
    ],
)
def test_a_wrong_request_is_one_line(words, message, experiment, folder, tmp_path):
    places = {"SAME": folder, "MISSING": tmp_path / "missing.json"}
    code, out, err = experiment(*[places.get(word, word) for word in words])
    assert code == 2
    assert not out
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err


def test_without_facts_the_request_says_so(run):
    code, _, err = run("experiment", "gaussian")
    assert (code, "give --facts FILE" in err) == (2, True)
