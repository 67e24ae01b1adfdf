"""`patchpoint task` as a user meets it: files, settings, JSON."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from made_tasks import echo, echo_again, small, task_command
from patchpoint.plots.labels import visible
from patchpoint.tasks import catalogue
from patchpoint.tasks.facts import read_facts
from patchpoint.tasks.feasibility import check
from patchpoint.tasks.generation import generate_together
from patchpoint.tasks.prompts import Prompts
from patchpoint.tasks.task import Task


@pytest.fixture
def model():
    return small()


@pytest.fixture
def task(run, folder, tmp_path, monkeypatch):
    return task_command(run, folder, tmp_path, monkeypatch)


def table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_list_shows_each_task_with_settings_and_corruptions(task):
    code, out, _ = task("list", "--json")
    rows = {row["name"]: row for row in json.loads(out)["tasks"]}
    assert code == 0
    assert list(rows) == list(catalogue.TASKS)
    assert rows["echo"] == {
        "name": "echo",
        "settings": {"last": "w7", "hard": 2},
        "question": "Says what the model says.",
        "corruptions": ["other", "resampled"],
        "source": "Nobody 1900",
        "needs_settings": False,
    }
    code, out, _ = task("list")
    assert code == 0
    for name in catalogue.TASKS:
        assert name in out
    assert "last=w7" in out


def test_generate_writes_what_the_function_gives(task, model, tmp_path):
    code, out, _ = task("generate", "echo", "--n", 9, "--seed", 4, "--out", "mine", "--pictures", "png,svg")
    assert code == 0
    want = echo().generate(model, 9, 4)
    mine = tmp_path / "mine"
    assert {path.name for path in mine.iterdir()} == {
        *("prompts.jsonl", "screening.csv", "screening.png", "screening.svg")
    }
    written = Prompts.load(mine / "prompts.jsonl", model)
    assert (written.clean, written.corrupt) == (want.clean, want.corrupt)
    report = want.report
    rows = table(mine / "screening.csv")
    assert tuple(row["text"] for row in rows) == report.texts
    assert [row["accepted"] == "True" for row in rows] == report.accepted.tolist()
    assert 0 < report.accepted.sum() < len(rows)
    np.testing.assert_allclose([float(row["prob"]) for row in rows], report.scores.prob)
    np.testing.assert_allclose([float(row["logit_diff"]) for row in rows], report.scores.logit_diff)
    assert f"{report.accepted.sum()} of {len(rows)} candidates accepted" in out
    assert "words: 14 of 14 take one token" in out
    assert want.clean_texts[0] in out
    assert f"{want.corrupt_texts[1]}" in out
    assert "mine/prompts.jsonl" in out


def test_generate_json_is_one_document(task, model):
    code, out, err = task("generate", "echo", "--n", 6, "--out", "mine", "--json", "--pictures", "")
    document = json.loads(out)
    want = echo().generate(model, 6)
    assert (code, err) == (0, "")
    (one,) = document["tasks"]
    assert (one["n"], one["candidates"], one["n_tokens"]) == (6, want.report.n_candidates, 3)
    assert one["acceptance"] == pytest.approx(want.report.acceptance)
    assert {group: (had["accepted"], had["seen"]) for group, had in one["groups"].items()} == (
        want.report.by_group()
    )
    assert [had["prompts"] for had in one["groups"].values()] == [2, 2, 2]
    assert one["first"][0] == {
        "clean": want.clean_texts[0],
        "corrupt": want.corrupt_texts[0],
        "correct": want.correct_texts[0],
        "incorrect": want.incorrect_texts[0],
    }
    assert one["screening"] == ["mine/screening.csv"]


def test_settings_have_the_types_of_the_task(task, model, tmp_path):
    task("generate", "echo", "--n", 6, "--set", "hard=3", "--set", "last=w11", "--out", "mine")
    written = Prompts.load(tmp_path / "mine" / "prompts.jsonl", model)
    assert written.clean_texts == echo(hard=3, last="w11").generate(model, 6).clean_texts


def test_every_kind_of_setting_is_read_as_what_it_is(task, monkeypatch):
    heard = {}

    def typed(
        *,
        whole: int | None = None,
        number: float = 0.5,
        truth: bool = False,
        either: str | int = "all",
        words: Sequence[str] | None = None,
        path: Path = Path(),
    ) -> Task:
        heard.update(whole=whole, number=number, truth=truth, either=either, words=words, path=path)
        return echo()

    monkeypatch.setitem(catalogue.TASKS, "typed", typed)
    given = ("whole=-3", "number=1e-2", "truth=yes", "either=7", "words=a, b,c", "path=x/y=z")
    options = [word for setting in given for word in ("--set", setting)]
    assert task("generate", "typed", "--n", 3, *options)[0] == 0
    assert heard == {
        "whole": -3,
        "number": 0.01,
        "truth": True,
        "either": "7",
        "words": ("a", "b", "c"),
        "path": Path("x/y=z"),
    }
    for wrong in ("whole=1.5", "number=much", "truth=maybe"):
        code, _, err = task("generate", "typed", "--set", wrong)
        assert (code, err.count("\n")) == (2, 1)
        assert f"typed: {wrong.split('=')[0]} is {wrong.split('=')[1]!r}, expected" in err


def test_an_option_of_its_own_is_a_setting(task, monkeypatch):
    def worded(*, template: str = "plain") -> Task:
        return echo(last={"plain": "w7", "other": "w8"}[template])

    monkeypatch.setitem(catalogue.TASKS, "worded", worded)
    _, out, _ = task("generate", "worded", "--n", 3, "--template", "other", "--json")
    assert json.loads(out)["tasks"][0]["first"][0]["clean"].endswith(" w8")


def test_several_tasks_share_sentences(task, model, tmp_path):
    code, out, _ = task(
        "generate", "echo", "echo-again", "--n", 6, "--set", "hard=2", "--out", "both", "--json"
    )
    assert code == 0
    want = generate_together([echo(), echo_again(hard=2)], model, 6)
    for name, prompts in zip(("echo", "echo-again"), want.values(), strict=True):
        written = Prompts.load(tmp_path / "both" / f"{name}.jsonl", model)
        assert written.clean == prompts.clean
        assert len(table(tmp_path / "both" / f"{name}-screening.csv")) == prompts.report.n_candidates
        assert (tmp_path / "both" / f"{name}-screening.png").stat().st_size > 1000
    assert len(json.loads(out)["tasks"]) == 2


def test_without_a_folder_the_name_of_the_task_is_one(task, tmp_path):
    assert task("generate", "echo", "--n", 3, "--no-screen", "--quiet")[0] == 0
    assert (tmp_path / "runs" / "task-echo" / "prompts.jsonl").exists()


def test_the_scores_of_what_a_model_cannot_do_are_kept(task, tmp_path):
    code, out, err = task("generate", "hopeless", "--n", 6, "--out", "mine")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "0 of 96 candidates accepted" in err
    assert "mine/screening.csv" in err
    rows = table(tmp_path / "mine" / "screening.csv")
    assert len(rows) == 96
    assert {row["accepted"] for row in rows} == {"False"}
    assert (tmp_path / "mine" / "screening.png").exists()
    assert not (tmp_path / "mine" / "prompts.jsonl").exists()


def test_no_screening_keeps_every_prompt(task):
    _, out, _ = task("generate", "hopeless", "--n", 6, "--no-screen", "--json")
    (one,) = json.loads(out)["tasks"]
    assert (one["n"], one["ratio"], one["acceptance"], one["accuracy"]) == (6, None, 1.0, 0.0)


def test_check_measures_every_task_and_says_what_cannot_be(task, folder, run, model, tmp_path):
    words = ("check", "--n", 12, "--seed", 3, "--out", "tables/check.csv")
    code, out, _ = task(*words, "--json")
    rows = {row["task"]: row for row in json.loads(out)["tasks"]}
    assert code == 0
    want = check(echo(), model, 12, 3)
    assert rows["echo last=w7"] == pytest.approx(want.to_dict(), nan_ok=True)
    assert rows["empty"]["reason"]
    assert rows["empty"]["accuracy"] is None
    saved = table(tmp_path / "tables" / "check.csv")
    assert [row["task"] for row in saved] == list(rows)
    assert float(saved[0]["accuracy"]) == want.accuracy
    code, out, _ = task(*words)
    assert f"{want.accuracy:.0%}" in out
    assert "empty: not measured: " in out
    assert run("task", "check", folder, "--n", 4, "--only", "echo")[0] == 0


def test_check_of_some_tasks_keeps_their_order(task):
    _, out, _ = task("check", "--n", 4, "--only", "empty", "--only", "echo", "--json")
    assert [row["task"] for row in json.loads(out)["tasks"]] == ["echo last=w7", "empty"]


@pytest.fixture
def saved(model, tmp_path):
    path = tmp_path / "prompts.jsonl"
    prompts = echo().generate(model, 5)
    prompts.save(path)
    return path, prompts


def test_show_marks_parts_and_what_changes(task, saved):
    path, prompts = saved
    code, out, _ = task("show", path, "--limit", 2)
    assert code == 0
    assert "echo last=w7" in out
    assert "2 of 5 prompts shown" in out
    a, b, last = map(visible, prompts.tokens[0])
    other = visible(prompts.corrupt_tokens[0][1])
    assert f" 1 clean {a}|{b}*|{last}\n" in out
    assert f"   twin  {a}|{other}*|{last}\n" in out
    assert f"parts  a 0:1 {a}   b* 1:2 {b} " in out
    assert prompts.clean_texts[2] not in out


def test_show_json_has_header_and_prompts(task, saved):
    path, prompts = saved
    _, out, _ = task("show", path, "--json")
    document = json.loads(out)
    assert (document["n"], len(document["prompts"])) == (5, 3)
    assert document["header"]["task"] == "echo last=w7"
    assert document["prompts"][1]["clean"] == prompts.clean_texts[1]
    assert document["prompts"][1]["spans"] == {role: list(span) for role, span in prompts.spans[1].items()}


def test_control_characters_of_a_file_do_not_reach_the_terminal(task, saved):
    path, _ = saved
    header, *rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["clean"] = rows[0]["clean_tokens"][0] = rows[0]["group"] = "\x1b[31m[bold]\n"
    path.write_text("\n".join(map(json.dumps, [header, *rows])))
    code, out, _ = task("show", path)
    assert code == 0
    assert "\x1b" not in out
    assert "\\x1b[31m[bold]↵" in out


def test_facts_become_a_file_for_traces(task, tmp_path):
    code, out, _ = task("facts", "--out", "new/facts.jsonl", "--json")
    assert code == 0
    facts = read_facts(tmp_path / "new" / "facts.jsonl")
    assert facts.problems == ()
    assert json.loads(out) == {"out": "new/facts.jsonl", "facts": len(facts.facts)}
    assert len(facts.facts) >= 500
    assert len({fact.relation_id for fact in facts.facts}) >= 5


def test_pairs_of_ones_own_are_screened(task, model, tmp_path):
    prompts = echo().generate(model, 4)
    lines = zip(
        *(prompts.clean_texts, prompts.corrupt_texts, prompts.correct_texts, prompts.incorrect_texts),
        strict=True,
    )
    names = ("clean", "corrupt", "correct", "incorrect")
    (tmp_path / "pairs.csv").write_text("\n".join(map(",".join, [names, *lines])))
    code, out, _ = task("generate", "custom", "--file", "pairs.csv", "--n", 4, "--json")
    assert code == 0
    (one,) = json.loads(out)["tasks"]
    assert (one["n"], one["acceptance"]) == (4, 1.0)


def test_slots_of_ones_own_are_filled(task):
    words = ("--template", "{a} {b} w7", "--slot", "a=w1,w2,w3", "--slot", "b=w5, w6", "--correct", " {a}")
    code, out, _ = task("generate", "custom", *words, "--vary", "a", "--n", 4, "--no-screen", "--json")
    assert code == 0
    (one,) = json.loads(out)["tasks"]
    for prompt in one["first"]:
        a, b, last = prompt["clean"].split()
        assert (prompt["correct"], last, b in ("w5", "w6")) == (f" {a}", "w7", True)
        assert prompt["corrupt"].split()[1:] == [b, last]
