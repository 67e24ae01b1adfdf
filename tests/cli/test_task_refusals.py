"""`patchpoint task` refused: one line and exit code 2 for every wrong request."""

import pytest

from made_tasks import task_command


@pytest.fixture
def task(run, folder, tmp_path, monkeypatch):
    return task_command(run, folder, tmp_path, monkeypatch)


BAD = {
    "task": (["generate", "ehco"], "unknown task 'ehco'; did you mean echo?"),
    "no task": (["generate"], "NAME"),
    "twice": (["generate", "echo", "echo"], "task echo is named 2 times"),
    "setting": (
        ["generate", "echo", "--set", "lats=w1"],
        "unknown setting of echo 'lats'; did you mean last?",
    ),
    "no settings": (["generate", "empty", "--set", "last=w1"], "task empty has no settings"),
    "form of a setting": (["generate", "echo", "--set", "last"], "--set got 'last'; write --set NAME=VALUE"),
    "setting twice": (
        ["generate", "echo", "--set", "last=a", "--set", "last=b"],
        "--set last is given twice",
    ),
    "type of a setting": (
        ["generate", "echo", "--set", "hard=very"],
        "echo: hard is 'very', expected a whole",
    ),
    "foreign option": (["generate", "echo", "--correct", "x"], "unknown setting of echo 'correct'"),
    "both": (
        ["generate", "custom", "--set", "correct=x", "--correct", "x"],
        "correct is given by --set and by an option of its own",
    ),
    "slot": (["generate", "custom", "--slot", "animal"], "--slot got 'animal'"),
    "slots as a setting": (["generate", "custom", "--set", "slots=x"], "give --slot SLOT=A,B,C"),
    "no words": (["generate", "custom", "--slot", "animal=,"], "--slot animal has no words"),
    "n": (["generate", "echo", "--n", "0"], "--n"),
    "n is a word": (["generate", "echo", "--n", "some"], "--n"),
    "ratio": (["generate", "echo", "--ratio", "0"], "ratio must be a positive number, got 0"),
    "ratio of nothing": (["check", "--ratio", "nan"], "ratio must be a positive number, got nan"),
    "few candidates": (
        ["generate", "echo", "--n", "9", "--candidates", "3"],
        "candidates must be at least n",
    ),
    "corruption": (["generate", "echo", "--corruption", "ohter"], "did you mean other?"),
    "picture": (["generate", "echo", "--pictures", "html"], "unknown picture format 'html'"),
    "unwritable": (["generate", "echo", "--out", "/proc/nowhere"], "'/proc/nowhere'"),
    "no cases": (["generate", "empty"], "empty: no prompt fits"),
    "bos": (["generate", "echo", "--bos"], "BOS"),
    "missing file": (["generate", "custom", "--file", "nowhere.csv"], "nowhere.csv"),
    "custom alone": (["generate", "custom"], "custom"),
    "only": (["check", "--only", "ecko"], "did you mean echo"),
    "only custom": (["check", "--only", "custom"], "task custom is not checked"),
    "two models": (["check", "gpt2"], "two models, 'gpt2' and --model"),
    "table in a folder": (["check", "--out", "."], "is a folder"),
    "unwritable table": (["check", "--out", "/proc/nowhere/a.csv"], "'/proc/nowhere'"),
    "shown file": (["show", "nowhere.jsonl"], "nowhere.jsonl"),
    "shown folder": (["show", "."], "'.'"),
    "no prompts": (["show", "other.jsonl"], "other.jsonl' is no file of prompts"),
    "unwritable facts": (["facts", "--out", "/proc/nowhere/a.jsonl"], "'/proc/nowhere'"),
    "facts in a folder": (["facts", "--out", "."], "is a folder"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_get_one_line_and_exit_2(task, case, tmp_path):
    (tmp_path / "other.jsonl").write_text('{"prompt": "a"}\n')
    words, message = BAD[case]
    code, out, err = task(*words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
