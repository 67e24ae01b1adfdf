"""The record of a run: complete, plain, and whole on disk."""

import json
import os
import stat
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from patchpoint.doctor import Check, Verdict
from patchpoint.doctor.verdict import About
from patchpoint.errors import InvalidArgument, ResultsError
from patchpoint.results import Counts
from patchpoint.results.provenance import GitState, git_state, read_record, require_same, write_record

GIT = """#!{python}
import os, sys
words = sys.argv[1:]
assert words[:2] == ["--no-optional-locks", "-C"] and os.path.isdir(words[2]), words
assert not any(name.startswith("GIT_") for name in os.environ)
if words[3] == "ls-files":
    sys.exit({untracked})
print({{"rev-parse": "0123abc", "status": {changes!r}}}[words[3]])
"""


@pytest.fixture
def git(tmp_path, monkeypatch):
    """Put a stand-in for git first on the path."""

    def place(*, untracked=0, changes=""):
        folder = tmp_path / "bin"
        folder.mkdir()
        program = folder / "git"
        program.write_text(GIT.format(python=sys.executable, untracked=untracked, changes=changes))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
        monkeypatch.setenv("GIT_DIR", "/elsewhere")
        return tmp_path / "module.py"

    return place


def test_a_record_comes_back_as_it_was_written(tmp_path, record):
    written = record().with_(
        status="finished",
        finished=datetime.now(UTC),
        counts=Counts(facts=3, traced=2, skipped=1),
        outputs={"facts.parquet": "ab"},
    )
    written = written.continued(record(device="cuda")).with_(status="interrupted")
    write_record(tmp_path, written)
    assert read_record(tmp_path) == written
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_record_says_what_was_run_and_with_what(record):
    made = record()
    assert set(made.versions) == {"python", "torch", "transformers", "tokenizers", "numpy", "patchpoint"}
    assert made.versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert "unknown" not in made.versions.values()
    assert made.started.tzinfo is not None
    assert made.finished is None
    plain = json.loads(made.model_dump_json())
    assert plain["schema_version"] == 2
    assert plain["status"] == "running"
    assert plain["counts"] == {"facts": 0, "traced": 0, "skipped": 0, "malformed": 0}


def test_a_continuation_keeps_the_first_start_and_adds_its_own(record):
    first = record(device="cuda").with_(status="interrupted")
    again = record()
    both = first.continued(again)
    assert (both.started, both.device, both.status) == (first.started, "cuda", "running")
    assert [(one.started, one.device) for one in both.resumed] == [(again.started, "cpu")]


def test_the_doctors_verdict_is_kept_with_the_record_and_with_each_continuation(tmp_path, record):
    about = About("ab", "float32", "cpu", "ieee", {"torch": "2"})
    check = Check("parity", "ours with theirs", "failed", 0.5, 1e-4, "std of the logits")
    first = record().with_(doctor=Verdict("m", about, 1e-6, (check,), 1.5), status="interrupted")
    write_record(tmp_path, first.continued(record()))
    saved = read_record(tmp_path)
    assert saved.doctor == first.doctor
    assert [check.name for check in saved.doctor.failed] == ["parity"]
    assert [again.doctor for again in saved.resumed] == [None]
    require_same(saved, record(), tmp_path)


def test_arguments_are_kept_as_a_reader_will_see_them(tmp_path, record):
    made = record(arguments={"facts": Path("a/b"), "roles": ("x", 1), "limit": None})
    assert made.arguments == {"facts": str(Path("a/b")), "roles": ["x", 1], "limit": None}
    write_record(tmp_path, made)
    require_same(read_record(tmp_path), made, tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, object()])
def test_an_argument_that_json_cannot_hold_is_refused(record, value):
    with pytest.raises(InvalidArgument, match="cannot be recorded") as caught:
        record(arguments={"noise": value})
    assert "\n" not in str(caught.value)


def test_values_that_python_calls_equal_are_told_apart(tmp_path, record):
    with pytest.raises(ResultsError, match="fold 1 there, true now"):
        require_same(record(arguments={"fold": 1}), record(arguments={"fold": True}), tmp_path)


def test_long_values_are_cut_in_the_message(tmp_path, record):
    with pytest.raises(ResultsError) as caught:
        require_same(record(arguments={"p": "x" * 9999}), record(arguments={"p": "y" * 9999}), tmp_path)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot read"),
        ("{", "cannot read"),
        ("[]", "cannot read"),
        ("\xff", "cannot read"),
        ("[" * 100_000, "cannot read"),
        ('{"schema_version": 2}', "cannot read .*started: Field required"),
        (
            '{"schema_version": 1, "versions": {"patchpoint": "9.0"}}',
            r"version 1, .* reads 2; .*patchpoint 9\.0",
        ),
        ('{"schema_version": null, "versions": 3}', "version None, this patchpoint reads 2"),
    ],
)
def test_a_damaged_record_is_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "run.json").write_text(text, encoding="latin-1")
    with pytest.raises(ResultsError, match=message) as caught:
        read_record(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_record_with_a_field_of_another_program_is_refused(tmp_path, record):
    document = {**record().model_dump(mode="json"), "colour": "red"}
    (tmp_path / "run.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(ResultsError, match="colour"):
        read_record(tmp_path)


def test_a_folder_without_a_run_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ResultsError, match=r"no run in .*run\.json"):
            read_record(folder)


def test_a_record_is_never_half_written(tmp_path, record, monkeypatch):
    write_record(tmp_path, record())
    before = (tmp_path / "run.json").read_bytes()

    def full(_descriptor):
        assert (tmp_path / "run.json").read_bytes() == before
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("patchpoint.results.disk.os.fsync", full)
    with pytest.raises(ResultsError, match=r"run\.json.*No space left on device"):
        write_record(tmp_path, record(seed=5))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


@pytest.mark.parametrize(("changes", "dirty"), [("", False), (" M src/patchpoint/cli.py", True)])
def test_the_commit_of_a_checkout_is_recorded(git, changes, dirty):
    assert git_state(git(changes=changes)) == GitState("0123abc", dirty)


def test_a_package_installed_inside_someones_repository_has_no_commit(git):
    assert git_state(git(untracked=1)) == GitState(None, None)


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path / "module.py") == GitState(None, None)
