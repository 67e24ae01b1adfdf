"""Damaged files and full disks: noticed, named, and computed again."""

import resource
import struct

import pyarrow.parquet as pq
import pytest

from patchpoint.errors import ResultsError
from patchpoint.results import Store, open_run
from patchpoint.results.parts import part_path

N_FACTS = 6
TABLES = ("effects.parquet", "facts.parquet")


@pytest.mark.parametrize("length", [0, 1, 4, 11, 100, 0.5, -200, -8, -4, -1])
def test_a_truncated_part_is_deleted_and_computed_again(tmp_path, write, whole, length, tables, resumed):
    folder = tmp_path / "run"
    write(folder, finish=False)
    part = part_path(folder, 3)
    data = part.read_bytes()
    part.write_bytes(data[: int(len(data) * length) if isinstance(length, float) else length])
    assert resumed(folder) == set(range(1, N_FACTS + 1)) - {3}
    assert not part.exists()
    write(folder)
    assert tables(folder) == whole


@pytest.mark.parametrize("place", [0, 40, 0.3, 0.6, -20, -6])
def test_an_altered_part_is_never_taken_for_another_result(tmp_path, write, whole, place, tables, resumed):
    folder = tmp_path / "run"
    write(folder, finish=False)
    part = part_path(folder, 3)
    data = bytearray(part.read_bytes())
    data[int(len(data) * place) if isinstance(place, float) else place] ^= 0x41
    part.write_bytes(bytes(data))
    resumed(folder)
    write(folder)
    assert tables(folder) == whole


def test_an_altered_effect_is_noticed(tmp_path, write, resumed):
    folder = tmp_path / "run"
    write(folder, [1, 3], finish=False)
    part = part_path(folder, 3)
    value = pq.ParquetFile(part).read()["effects"][0][0]["effect"].as_py()
    stored = struct.pack("<f", value)
    data = part.read_bytes()
    assert data.count(stored) >= 1
    part.write_bytes(data.replace(stored, bytes(4)))
    assert resumed(folder) == {1}


def test_a_part_under_another_name_is_not_that_fact(tmp_path, write, resumed):
    folder = tmp_path / "run"
    write(folder, [1, 2], finish=False)
    part_path(folder, 2).rename(part_path(folder, 3))
    assert resumed(folder) == {1}


def test_a_part_that_is_no_part_is_dropped(tmp_path, write, resumed):
    folder = tmp_path / "run"
    write(folder, [1, 2], finish=False)
    pq.write_table(pq.ParquetFile(part_path(folder, 2)).read().drop_columns("p_clean"), part_path(folder, 2))
    assert resumed(folder) == {1}


def test_leftovers_of_a_crash_are_removed(tmp_path, write, resumed):
    folder = tmp_path / "run"
    write(folder, [1], finish=False)
    left = [part_path(folder, 2).with_name(".fact-000002.parquet.tmp"), folder / ".effects.parquet.tmp"]
    for path in left:
        path.write_bytes(b"PAR1")
    assert resumed(folder) == {1}
    assert not any(path.exists() for path in left)


def test_a_part_damaged_while_the_run_goes_on_stops_the_finish(
    tmp_path, write, record, row, effects, whole, tables
):
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


def test_a_damaged_final_table_is_made_again_while_the_parts_are_there(
    tmp_path, write, whole, monkeypatch, tables
):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("patchpoint.results.store.shutil.rmtree", lambda *_, **__: None)
        write(folder)
    (folder / "effects.parquet").write_bytes(b"PAR1")
    part_path(folder, 2).unlink()
    write(folder)
    assert tables(folder) == whole


def test_a_disk_that_takes_no_more_is_one_line_and_costs_one_fact(
    tmp_path, record, row, effects, write, whole, tables
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


def test_a_disk_that_fills_while_finishing_loses_nothing(tmp_path, record, write, whole, monkeypatch, tables):
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
