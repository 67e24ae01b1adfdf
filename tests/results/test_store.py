"""The store: killed anywhere it continues to the same bytes, and it mixes nothing with anything."""

import os
import resource
import struct
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from patchpoint.errors import InvalidArgument, PatchpointError, ResultsError, UnknownName
from patchpoint.results import Counts, Store, open_run
from patchpoint.results.parts import part_path

N_FACTS = 6
TABLES = ("effects.parquet", "facts.parquet")


@pytest.fixture
def write(record, row, effects):
    """Write some facts in some order and finish, or not."""

    def run(folder, facts=range(1, N_FACTS + 1), *, finish=True, **changes):
        with Store.create_or_resume(folder, record(**changes)) as store:
            for fact in facts:
                if fact not in store.statuses():
                    store.write(row(fact), effects(fact))
            if finish:
                store.finish()

    return run


@pytest.fixture
def whole(tmp_path, write):
    """The bytes of the two tables of an unbroken run."""
    write(tmp_path / "whole")
    return tables(tmp_path / "whole")


def tables(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in TABLES]


def resumed(folder: Path, record) -> set[int]:
    with Store.create_or_resume(folder, record()) as store:
        return set(store.statuses())


def test_a_finished_run_holds_what_was_written(tmp_path, write, row, effects):
    write(tmp_path / "run")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [".lock", *TABLES, "run.json"]
    facts = pq.ParquetFile(tmp_path / "run" / "facts.parquet").read().to_pylist()
    assert [fact["fact"] for fact in facts] == list(range(1, N_FACTS + 1))
    for fact in facts:
        assert {name: value for name, value in fact.items() if value is not None} == row(fact["fact"])
    found = pq.ParquetFile(tmp_path / "run" / "effects.parquet").read().to_pylist()
    written = [{**e, "fact": fact} for fact in range(1, N_FACTS + 1) for e in effects(fact)]
    assert found == written
    record = open_run(tmp_path / "run").record
    assert record.status == "finished"
    assert record.finished >= record.started
    assert record.counts == Counts(facts=6, traced=4, skipped=1, malformed=1)


def test_order_and_interruptions_leave_no_trace_in_the_tables(tmp_path, write, whole, record, effects, row):
    folder = tmp_path / "broken"
    write(folder, [6, 3, 1], finish=False)
    assert open_run(folder).record.status == "interrupted"
    assert open_run(folder).record.counts.facts == 3
    with Store.create_or_resume(folder, record()) as store:
        store.write(row(2), list(reversed(effects(2))))
    write(folder, reversed(range(1, N_FACTS + 1)))
    assert tables(folder) == whole
    assert len(open_run(folder).record.resumed) == 2


def test_many_facts_are_joined_in_order(tmp_path, write):
    write(tmp_path / "run", [1_000_000, *range(1, 131), 999_999])
    facts = open_run(tmp_path / "run").facts["fact"].to_pylist()
    assert facts == [*range(1, 131), 999_999, 1_000_000]


def test_an_exception_keeps_the_facts_and_marks_the_run_interrupted(tmp_path, record, row, effects):
    def interrupted():
        with Store.create_or_resume(tmp_path / "run", record()) as store:
            store.write(row(2), effects(2))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert open_run(tmp_path / "run").record.status == "interrupted"
    assert resumed(tmp_path / "run", record) == {2}


def test_a_finished_run_is_reused_and_not_written_again(tmp_path, write, whole, record, row, effects):
    folder = tmp_path / "run"
    write(folder)
    before = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.iterdir() if p.name != ".lock"}
    with Store.create_or_resume(folder, record()) as store:
        assert set(store.statuses()) == set(range(1, N_FACTS + 1))
        assert store.finish().status == "finished"
        with pytest.raises(ResultsError, match="is finished"):
            store.write(row(1), effects(1))
    after = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.iterdir() if p.name != ".lock"}
    assert after == before


def test_parts_go_only_after_the_run_is_marked_finished(tmp_path, write, monkeypatch):
    seen = []

    def remove(parts, **_):
        seen.append((parts.is_dir(), open_run(parts.parent).record.status))

    monkeypatch.setattr("patchpoint.results.store.shutil.rmtree", remove)
    write(tmp_path / "run")
    assert seen == [(True, "finished")]


def test_a_folder_whose_name_looks_like_a_partition_adds_no_column(tmp_path, write, whole):
    write(tmp_path / "noise=s3" / "fact=9", [1, 2], finish=False)
    write(tmp_path / "noise=s3" / "fact=9")
    assert tables(tmp_path / "noise=s3" / "fact=9") == whole


# --- killed -------------------------------------------------------------------------------------------------

# One process imports the library and forks a writer per try; a writer that ends by itself has finished.
KILLER = """
import os, random, signal, sys, time
sys.path.insert(0, sys.argv[1])
from conftest import make_effects, make_record, make_row
from pathlib import Path
from patchpoint.results import Store, disk, store as store_module

N_FACTS = 6
OPERATIONS = [(disk.os, "replace"), (disk.os, "fsync"), (store_module.shutil, "rmtree"), (os, "mkdir")]

def write(folder, seed):
    with Store.create_or_resume(folder, make_record()) as store:
        todo = sorted(set(range(1, N_FACTS + 1)) - store.statuses().keys())
        random.Random(seed).shuffle(todo)
        for fact in todo:
            store.write(make_row(fact), make_effects(fact))
        store.finish()

def forked(work):
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    return child

def ended(child):
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
    return not os.WIFSIGNALED(status)

def killed_in_time(folder, seed):
    chance = random.Random(seed)
    kills = 0
    while True:
        child = forked(lambda: write(folder, chance.random()))
        time.sleep(chance.uniform(0.002, 0.01 + 0.003 * kills))
        os.kill(child, signal.SIGKILL)
        if ended(child):
            return kills
        kills += 1

def killed_at(folder, count):
    def work():
        left = [count]
        for module, name in OPERATIONS:
            def counted(*given, real=getattr(module, name), **named):
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1
                return real(*given, **named)
            setattr(module, name, counted)
        write(folder, count)
    return not ended(forked(work))

make_record()  # asks git once, for all the forks
root = Path(sys.argv[2])
if sys.argv[3] == "times":
    print(*(killed_in_time(root / str(seed), seed) for seed in range(4)))
else:
    count = 0
    while killed_at(root / str(count), count):
        assert ended(forked(lambda: write(root / str(count), -count)))
        count += 1
    print(count)
"""


def killer(tmp_path: Path, kind: str) -> list[int]:
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(Path(__file__).parent), str(tmp_path), kind],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


needs_fork = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="kills forked writers; this system cannot fork"
)


@needs_fork
@pytest.mark.slow
def test_killed_at_random_moments_a_run_ends_with_the_bytes_of_an_unbroken_one(tmp_path, whole):
    kills = killer(tmp_path / "killed", "times")
    assert min(kills) >= 3
    for folder in (tmp_path / "killed").iterdir():
        assert tables(folder) == whole
        assert sorted(p.name for p in folder.iterdir()) == [".lock", *TABLES, "run.json"]


@needs_fork
@pytest.mark.slow
def test_killed_at_each_disk_operation_a_run_ends_with_the_bytes_of_an_unbroken_one(tmp_path, whole):
    (count,) = killer(tmp_path / "killed", "operations")
    assert count > 3 * N_FACTS
    assert len(list((tmp_path / "killed").iterdir())) == count + 1
    for folder in (tmp_path / "killed").iterdir():
        assert tables(folder) == whole
        assert sorted(p.name for p in folder.iterdir()) == [".lock", *TABLES, "run.json"]


# --- damaged ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 4, 11, 100, 0.5, -200, -8, -4, -1])
def test_a_truncated_part_is_deleted_and_computed_again(tmp_path, write, whole, record, length):
    folder = tmp_path / "run"
    write(folder, finish=False)
    part = part_path(folder, 3)
    data = part.read_bytes()
    part.write_bytes(data[: int(len(data) * length) if isinstance(length, float) else length])
    assert resumed(folder, record) == set(range(1, N_FACTS + 1)) - {3}
    assert not part.exists()
    write(folder)
    assert tables(folder) == whole


@pytest.mark.parametrize("place", [0, 40, 0.3, 0.6, -20, -6])
def test_an_altered_part_is_never_taken_for_another_result(tmp_path, write, whole, record, place):
    folder = tmp_path / "run"
    write(folder, finish=False)
    part = part_path(folder, 3)
    data = bytearray(part.read_bytes())
    data[int(len(data) * place) if isinstance(place, float) else place] ^= 0x41
    part.write_bytes(bytes(data))
    resumed(folder, record)
    write(folder)
    assert tables(folder) == whole


def test_an_altered_effect_is_noticed(tmp_path, write, record, effects):
    folder = tmp_path / "run"
    write(folder, [1, 3], finish=False)
    part = part_path(folder, 3)
    value = pq.ParquetFile(part).read()["effects"][0][0]["effect"].as_py()
    stored = struct.pack("<f", value)
    data = part.read_bytes()
    assert data.count(stored) >= 1
    part.write_bytes(data.replace(stored, bytes(4)))
    assert resumed(folder, record) == {1}


def test_a_part_under_another_name_is_not_that_fact(tmp_path, write, record):
    folder = tmp_path / "run"
    write(folder, [1, 2], finish=False)
    part_path(folder, 2).rename(part_path(folder, 3))
    assert resumed(folder, record) == {1}


def test_a_part_that_is_no_part_is_dropped(tmp_path, write, record):
    folder = tmp_path / "run"
    write(folder, [1, 2], finish=False)
    pq.write_table(pq.ParquetFile(part_path(folder, 2)).read().drop_columns("p_clean"), part_path(folder, 2))
    assert resumed(folder, record) == {1}


def test_leftovers_of_a_crash_are_removed(tmp_path, write, record):
    folder = tmp_path / "run"
    write(folder, [1], finish=False)
    left = [part_path(folder, 2).with_name(".fact-000002.parquet.tmp"), folder / ".effects.parquet.tmp"]
    for path in left:
        path.write_bytes(b"PAR1")
    assert resumed(folder, record) == {1}
    assert not any(path.exists() for path in left)


def test_a_part_damaged_while_the_run_goes_on_stops_the_finish(tmp_path, write, record, row, effects, whole):
    folder = tmp_path / "run"
    with Store.create_or_resume(folder, record()) as store:
        store.write(row(1), effects(1))
        part_path(folder, 1).write_bytes(b"PAR1")
        with pytest.raises(ResultsError, match=r"fact-000001.parquet' is damaged; the same command"):
            store.finish()
    write(folder)
    assert tables(folder) == whole


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("harm", ["cut", "flip", "gone"])
def test_a_damaged_final_table_is_refused_by_name(tmp_path, write, record, name, harm):
    folder = tmp_path / "run"
    write(folder)
    path = folder / name
    data = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:-9] if harm == "cut" else data[:50] + bytes([data[50] ^ 1]) + data[51:])
    for use in (lambda: Store.create_or_resume(folder, record()), lambda: open_run(folder)):
        with pytest.raises(ResultsError, match=f"{name}' is (damaged|missing).*delete the folder") as caught:
            use()
        assert "\n" not in str(caught.value)


def test_a_damaged_final_table_is_made_again_while_the_parts_are_there(tmp_path, write, whole, monkeypatch):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("patchpoint.results.store.shutil.rmtree", lambda *_, **__: None)
        write(folder)
    (folder / "effects.parquet").write_bytes(b"PAR1")
    part_path(folder, 2).unlink()
    write(folder)
    assert tables(folder) == whole


# --- mixed --------------------------------------------------------------------------------------------------

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


def test_an_empty_folder_and_one_left_by_a_crash_at_the_start_are_taken(tmp_path, write, whole):
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


# --- one writer ---------------------------------------------------------------------------------------------


def test_a_second_writer_is_refused_and_the_first_is_not_disturbed(tmp_path, record, row, effects, write):
    folder = tmp_path / "run"
    with Store.create_or_resume(folder, record()) as store:
        store.write(row(1), effects(1))
        with pytest.raises(ResultsError, match="another run is writing"):
            Store.create_or_resume(folder, record())
        store.write(row(2), effects(2))
        assert len(open_run(folder)) == 2
    assert resumed(folder, record) == {1, 2}


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
def test_another_process_holds_the_folder_until_it_dies(tmp_path, record):
    command = [sys.executable, "-c", HOLDER, str(Path(__file__).parent), str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ResultsError, match=r"another run is writing .*use another --out"):
            Store.create_or_resume(tmp_path / "run", record())
        holder.kill()
    assert open_run(tmp_path / "run").record.status == "running"
    assert resumed(tmp_path / "run", record) == set()


def test_a_refused_run_frees_the_folder(tmp_path, write, record):
    write(tmp_path / "run", [1], finish=False)
    with pytest.raises(ResultsError, match="seed") as caught:
        write(tmp_path / "run", seed=9)
    assert resumed(tmp_path / "run", record) == {1}
    assert caught.traceback  # keeps the frames alive: the lock was given back, not collected


def test_a_closed_store_refuses_to_write(tmp_path, record, row, effects):
    store = Store.create_or_resume(tmp_path / "run", record())
    store.close()
    store.close()
    for use in (lambda: store.write(row(1), effects(1)), store.finish):
        with pytest.raises(ResultsError, match="is closed"):
            use()


# --- the disk refuses ---------------------------------------------------------------------------------------


def test_a_disk_that_takes_no_more_is_one_line_and_costs_one_fact(
    tmp_path, record, row, effects, write, whole
):
    folder = tmp_path / "run"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Store.create_or_resume(folder, record()) as store:
        store.write(row(1), effects(1))
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))
        try:
            with pytest.raises(ResultsError, match=r"cannot write .*fact-000002.*make room") as caught:
                store.write(row(2), effects(2))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "\n" not in str(caught.value)
        assert store.statuses() == {1: "traced"}
    assert [path.name for path in (folder / "parts").iterdir()] == ["fact-000001.parquet"]
    write(folder)
    assert tables(folder) == whole


def test_a_disk_that_fills_while_finishing_loses_nothing(tmp_path, record, write, whole, monkeypatch):
    folder = tmp_path / "run"
    write(folder, finish=False)

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, Store.create_or_resume(folder, record()) as store:
        patch.setattr("patchpoint.results.disk.os.fsync", full)
        with pytest.raises(ResultsError, match=r"facts\.parquet.*No space left on device"):
            store.finish()
    assert not list(folder.glob("*.parquet"))
    write(folder)
    assert tables(folder) == whole


# --- rows that do not fit -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"status": "trace"}, UnknownName, "unknown status 'trace'; did you mean traced"),
        ({"pclean": 1.0}, UnknownName, "unknown column 'pclean'; did you mean p_clean"),
        ({"answer": None, "p_clean": None}, InvalidArgument, "a traced fact needs answer, p_clean"),
        ({"fact": None}, InvalidArgument, "needs fact"),
        ({"fact": 0}, InvalidArgument, "count from 1"),
        ({"p_clean": "high"}, InvalidArgument, "a value of the wrong kind"),
        ({"prompt": "\ud800"}, InvalidArgument, "a value of the wrong kind"),
        ({"answer_id": 2**70}, InvalidArgument, "a value of the wrong kind"),
        ({"token_ids": [1]}, InvalidArgument, "5 tokens and 1 token ids"),
        ({"subject_stop": 6}, InvalidArgument, "subject span 1:6 is not within its 5 tokens"),
        ({"status": "skipped"}, InvalidArgument, "is skipped with 15 effects"),
    ],
)
def test_a_facts_row_that_does_not_fit_is_refused(tmp_path, record, row, effects, change, kind, message):
    with Store.create_or_resume(tmp_path / "run", record()) as store:
        with pytest.raises(kind, match=message) as caught:
            store.write({**row(1), **change}, effects(1))
        assert "\n" not in str(caught.value)
        assert store.statuses() == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token": 5}, "a token or layer that is not there"),
        ({"token": -1}, "a token or layer that is not there"),
        ({"layer": -1}, "a token or layer that is not there"),
        ({"token": 1}, "two effects for one token and layer"),
        ({"fact": 2}, "an effect of fact 2 was given with fact 1"),
        ({"efect": 1.0}, "unknown column 'efect'; did you mean effect"),
        ({"effect": None}, "has no effect"),
        ({"effect": "big"}, "wrong kind"),
    ],
)
def test_an_effect_that_does_not_fit_is_refused(tmp_path, record, row, effects, change, message):
    rows = effects(1)
    rows[0] = {**rows[0], **change}
    with Store.create_or_resume(tmp_path / "run", record()) as store:
        with pytest.raises(PatchpointError, match=message):
            store.write(row(1), rows)
        with pytest.raises(InvalidArgument, match="lacks effect_se, p_restored"):
            store.write(row(1), [{"token": 0, "layer": 0, "effect": 0.0}])
        with pytest.raises(InvalidArgument, match="is traced with 0 effects"):
            store.write(row(1))
        assert store.statuses() == {}
