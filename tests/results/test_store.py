"""The store: what is written is what is kept, and nothing that does not fit."""

import pyarrow.parquet as pq
import pytest

from patchpoint.errors import InvalidArgument, PatchpointError, ResultsError, UnknownName
from patchpoint.results import Counts, Store, open_run

N_FACTS = 6
TABLES = ("effects.parquet", "facts.parquet")


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


def test_order_and_interruptions_leave_no_trace_in_the_tables(
    tmp_path, write, whole, record, effects, row, tables
):
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


def test_an_exception_keeps_the_facts_and_marks_the_run_interrupted(tmp_path, record, row, effects, resumed):
    def interrupted():
        with Store.create_or_resume(tmp_path / "run", record()) as store:
            store.write(row(2), effects(2))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert open_run(tmp_path / "run").record.status == "interrupted"
    assert resumed(tmp_path / "run") == {2}


def test_a_finished_run_is_reused_and_not_written_again(tmp_path, write, record, row, effects):
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


def test_a_folder_whose_name_looks_like_a_partition_adds_no_column(tmp_path, write, whole, tables):
    write(tmp_path / "noise=s3" / "fact=9", [1, 2], finish=False)
    write(tmp_path / "noise=s3" / "fact=9")
    assert tables(tmp_path / "noise=s3" / "fact=9") == whole


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
        (
            {"spans": [{"name": "a fact", "start": 0, "stop": 6}]},
            InvalidArgument,
            "a fact span 0:6 is not within its 5 tokens",
        ),
        (
            {"spans": [{"name": "subject", "start": 0, "stop": 1}]},
            InvalidArgument,
            "spans are named .*give each a name of its own",
        ),
        ({"spans": [{"name": "a fact"}]}, InvalidArgument, "a fact span None:None is not within"),
        ({"spans": {"a fact": (0, 1)}}, InvalidArgument, "a value of the wrong kind"),
        ({"tokens": None}, InvalidArgument, "a traced fact needs tokens"),
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
        ({"exact": None}, "has no exact"),
        ({"exact": 0.5}, "wrong kind"),
        ({"effect": "big"}, "wrong kind"),
    ],
)
def test_an_effect_that_does_not_fit_is_refused(tmp_path, record, row, effects, change, message):
    rows = effects(1)
    rows[0] = {**rows[0], **change}
    with Store.create_or_resume(tmp_path / "run", record()) as store:
        with pytest.raises(PatchpointError, match=message):
            store.write(row(1), rows)
        with pytest.raises(InvalidArgument, match="lacks effect_se, exact, p_restored"):
            store.write(row(1), [{"token": 0, "layer": 0, "effect": 0.0}])
        with pytest.raises(InvalidArgument, match="is traced with 0 effects"):
            store.write(row(1))
        assert store.statuses() == {}
