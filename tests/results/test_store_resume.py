"""A folder holds one run with one writer; another run is refused with every difference named."""

import subprocess
import sys
from pathlib import Path

import pytest

from patchpoint.errors import ResultsError
from patchpoint.results import Store, open_run

CHANGES = {
    "samples": ({"arguments": {"samples": 5, "noise": "s3", "metric": "prob"}}, "samples 10 there, 5 now"),
    "new": (
        {"arguments": {"samples": 10, "noise": "s3", "metric": "prob", "window": 10}},
        "window absent there, 10 now",
    ),
    "gone": ({"arguments": {"samples": 10, "noise": "s3"}}, 'metric "prob" there, absent now'),
    "kind": ({"arguments": {"samples": 10.0, "noise": "s3", "metric": "prob"}}, "samples 10 there, 10.0 now"),
    "command": ({"command": "experiment reverse"}, 'command "experiment gaussian" there, "experiment rev'),
    "seed": ({"seed": 1}, "seed 0 there, 1 now"),
    "dtype": ({"dtype": "bfloat16"}, 'dtype "float32" there, "bfloat16" now'),
    "model": ({"model_fingerprint": "model-b"}, 'model_fingerprint "model-a" there, "model-b" now'),
    "tokenizer": ({"tokenizer_fingerprint": "b"}, 'tokenizer_fingerprint "tokenizer-a" there, "b" now'),
    "facts": ({"facts_sha256": None}, 'facts_sha256 "facts-a" there, null now'),
}


@pytest.mark.parametrize("finish", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_r44_a_changed_parameter_is_named_and_refused(tmp_path, write, finish, change):
    folder = tmp_path / "run"
    write(folder, [1, 2], finish=finish)
    before = {path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}
    changes, message = CHANGES[change]
    with pytest.raises(ResultsError) as caught:
        write(folder, **changes)
    assert message in str(caught.value)
    assert "use another --out" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()} == before


def test_r44_every_difference_is_named_at_once(tmp_path, write):
    write(tmp_path / "run", [1])
    with pytest.raises(ResultsError, match=r"seed 0 there, 3 now; model_fingerprint .* now; use another"):
        write(tmp_path / "run", seed=3, model_fingerprint="model-b")


@pytest.mark.parametrize("finish", [True, False])
def test_r44_unchanged_parameters_reuse_what_is_there(tmp_path, write, record, finish):
    write(tmp_path / "run", [1, 2, 4], finish=finish)
    with Store.create_or_resume(tmp_path / "run", record(device="cuda", model="another name")) as store:
        assert store.statuses() == {1: "traced", 2: "traced", 4: "skipped"}


def test_r55_results_refuse_another_model_or_tokenizer(tmp_path, write):
    write(tmp_path / "run", [1])
    saved = open_run(tmp_path / "run")
    saved.require_model("model-a", "tokenizer-a")
    with pytest.raises(ResultsError, match="made with tiny, model model-a; got model model-b"):
        saved.require_model("model-b", "tokenizer-a")
    with pytest.raises(ResultsError, match="tokenizer tokenizer-a; got tokenizer tokenizer-b"):
        saved.require_model("model-a", "tokenizer-b")


@pytest.mark.parametrize("name", ["thesis.tex", "parts", "effects.parquet", ".git"])
def test_a_folder_with_other_files_is_left_alone(tmp_path, write, name):
    (tmp_path / name).write_text("years of work")
    with pytest.raises(ResultsError, match=r"holds .* and no run.json; use an empty or new folder as --out"):
        write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_empty_folder_and_one_left_by_a_crash_at_the_start_are_taken(tmp_path, write, whole, tables):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".lock").touch()
    (folder / ".run.json.tmp").write_text("{")
    write(folder)
    assert tables(folder) == whole


@pytest.mark.parametrize("below", ["", "sub", "sub/sub"])
def test_a_folder_that_cannot_be_made_is_refused_in_one_line(tmp_path, write, below):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match=r"cannot (use|write to)") as caught:
        write(tmp_path / "file" / below)
    assert "\n" not in str(caught.value)
    with pytest.raises(ResultsError, match="cannot use"):
        write("a\0b")


def test_a_second_writer_is_refused_and_the_first_is_not_disturbed(
    tmp_path, record, row, effects, write, resumed
):
    folder = tmp_path / "run"
    with Store.create_or_resume(folder, record()) as store:
        store.write(row(1), effects(1))
        with pytest.raises(ResultsError, match="another run is writing"):
            Store.create_or_resume(folder, record())
        store.write(row(2), effects(2))
        assert len(open_run(folder)) == 2
    assert resumed(folder) == {1, 2}


HOLDER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from conftest import make_record
from patchpoint.results import Store
store = Store.create_or_resume(sys.argv[2], make_record())
print("held", flush=True)
time.sleep(100)
"""


@pytest.mark.slow
def test_another_process_holds_the_folder_until_it_dies(tmp_path, record, resumed):
    command = [sys.executable, "-c", HOLDER, str(Path(__file__).parent), str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ResultsError, match=r"another run is writing .*use another --out"):
            Store.create_or_resume(tmp_path / "run", record())
        holder.kill()
    assert open_run(tmp_path / "run").record.status == "running"
    assert resumed(tmp_path / "run") == set()


def test_a_refused_run_frees_the_folder(tmp_path, write, resumed):
    write(tmp_path / "run", [1], finish=False)
    with pytest.raises(ResultsError, match="seed") as caught:
        write(tmp_path / "run", seed=9)
    assert resumed(tmp_path / "run") == {1}
    assert caught.traceback  # keeps the frames alive: the lock was given back, not collected


def test_a_closed_store_refuses_to_write(tmp_path, record, row, effects):
    store = Store.create_or_resume(tmp_path / "run", record())
    store.close()
    store.close()
    for use in (lambda: store.write(row(1), effects(1)), store.finish):
        with pytest.raises(ResultsError, match="is closed"):
            use()
