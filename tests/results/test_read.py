"""Reading runs back: the numbers that were written, whole or so far, and SQL over them."""

import shutil

import numpy as np
import pytest

from patchpoint.errors import InvalidArgument, ResultsError, UnknownName
from patchpoint.results import Store, grid_rows, open_run, query
from patchpoint.results.averages import grids_of
from patchpoint.results.parts import part_path


@pytest.fixture(params=["finished", "interrupted"])
def folder(request, tmp_path, record, row, effects):
    """A run of six facts in a folder whose name is a trap for SQL and for partition readers."""
    folder = tmp_path / "it's; DROP" / "fact=7"
    with Store.create_or_resume(folder, record()) as store:
        for fact in (6, 5, 4, 1, 2, 3):
            store.write(row(fact), effects(fact))
        if request.param == "finished":
            store.finish()
    return folder


def test_effects_come_back_with_their_labels(folder, grid):
    saved = open_run(folder)
    assert saved.traced() == (1, 2, 3, 6)
    for fact in saved.traced():
        effect, effect_se, p_restored = grid(fact)
        found = saved.effect(fact)
        assert found.dims == ("token", "layer")
        assert found.name == "effect"
        assert found.coords["token"].values.tolist() == [0, 1, 2, 3, 4]
        assert found.coords["layer"].values.tolist() == [0, 1, 2]
        assert found.coords["text"].values.tolist() == ["The", " tower*", f" {fact}*", " is", " in"]
        np.testing.assert_array_equal(found.values, effect)
        np.testing.assert_array_equal(saved.measure(fact, "effect_se").values, effect_se)
        np.testing.assert_array_equal(saved.measure(fact, "p_restored").values, p_restored)


def test_rows_come_back_by_fact_number(folder, row):
    saved = open_run(folder)
    assert len(saved) == 6
    for number, found in enumerate(saved, start=1):
        assert {name: value for name, value in found.items() if value is not None} == row(number)
        assert saved.fact(number) == found
    assert saved.tokens(2) == ["The", " tower*", " 2*", " is", " in"]
    assert saved.tokens(5) == []


def test_places_not_measured_are_nan(tmp_path, record, row):
    with Store.create_or_resume(tmp_path / "run", record()) as store:
        store.write(
            row(1),
            [{"token": 1, "layer": 2, "effect": 0.5, "effect_se": 0.0, "p_restored": 0.6, "exact": True}],
        )
        store.write(
            row(2),
            [{"token": 4, "layer": 0, "effect": 1.0, "effect_se": 0.0, "p_restored": 0.6, "exact": True}],
        )
    found = open_run(tmp_path / "run").effect(2)
    assert found.shape == (5, 3)
    assert found.values[4, 0] == 1.0
    assert int(found.notnull().sum()) == 1


def test_what_was_measured_and_what_estimated_comes_back(tmp_path, record, row, grid):
    exact = np.arange(15).reshape(5, 3) % 2 == 0
    with Store.create_or_resume(tmp_path / "run", record()) as store:
        store.write(row(1), grid_rows(*grid(1), exact))
        store.write(row(2), grid_rows(*grid(2)))
        store.write(row(3), grid_rows(*grid(3), exact)[:4])
    saved = open_run(tmp_path / "run")
    assert saved.exact(1).dtype == bool
    np.testing.assert_array_equal(saved.exact(1).values, exact)
    assert saved.exact(2).values.all()
    np.testing.assert_array_equal(saved.exact(3).values, exact & (np.arange(15).reshape(5, 3) < 4))
    with pytest.raises(InvalidArgument, match="one shape"):
        grid_rows(*grid(1), exact.T)


def test_named_spans_come_back(tmp_path, record, row, effects):
    spans = [{"name": "true fact 1", "start": 0, "stop": 1}, {"name": "empty", "start": 5, "stop": 5}]
    with Store.create_or_resume(tmp_path / "run", record()) as store:
        store.write({**row(1), "spans": spans}, effects(1))
        store.finish()
    assert open_run(tmp_path / "run").fact(1)["spans"] == spans
    sql = "SELECT span.stop FROM (SELECT unnest(spans) AS span FROM facts) WHERE span.name = 'true fact 1'"
    assert query(tmp_path / "run", sql).rows == ((1,),)


@pytest.mark.parametrize("direction", ["restore", "corrupt"])
def test_heatmaps_of_a_run_are_what_was_written(tmp_path, record, row, grid, direction):
    exact = np.arange(15).reshape(5, 3) % 2 == 0
    spans = [{"name": "true fact 1", "start": 0, "stop": 1}]
    with Store.create_or_resume(tmp_path / "run", record(arguments={"direction": direction})) as store:
        store.write({"fact": 1, "status": "skipped", "reason": "predicted another"})
        store.write({**row(3), "spans": spans}, grid_rows(*grid(3), exact))
        store.write(row(2), grid_rows(*grid(2)))
    second, third = grids_of(open_run(tmp_path / "run"))
    assert (second.number, second.spans, third.number, third.spans) == (2, {}, 3, {"true fact 1": (0, 1)})
    for found in (second, third):
        wrote = row(found.number)
        for name in ("prompt", "subject", "answer", "p_clean", "p_corrupt"):
            assert getattr(found, name) == wrote[name]
        assert (found.tokens, found.subject_span) == (tuple(wrote["tokens"]), (1, 3))
        assert found.direction == direction
        np.testing.assert_array_equal(found.effect, grid(found.number)[0])
        np.testing.assert_array_equal(found.effect_se, grid(found.number)[1])
    assert second.exact.all()
    np.testing.assert_array_equal(third.exact, exact)


def test_what_is_not_there_is_named(folder):
    saved = open_run(folder)
    with pytest.raises(InvalidArgument, match="no fact 7; facts 1 to 6"):
        saved.effect(7)
    with pytest.raises(InvalidArgument, match="fact 4 has no effects: it is skipped, predicted another"):
        saved.effect(4)
    with pytest.raises(UnknownName, match="unknown measure 'efect'; did you mean effect"):
        saved.measure(1, "efect")


def test_a_run_without_facts_can_be_read(tmp_path, record):
    for finish in (False, True):
        with Store.create_or_resume(tmp_path / "run", record()) as store:
            if finish:
                store.finish()
        saved = open_run(tmp_path / "run")
        assert (len(saved), saved.traced()) == (0, ())
        with pytest.raises(InvalidArgument, match="has no fact 1; it has no facts yet"):
            saved.effect(1)
        assert query(tmp_path / "run", "SELECT count(*) FROM effects").rows == ((0,),)


def test_reading_changes_nothing(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    open_run(folder)
    query(folder, "SELECT 1")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_damaged_part_of_an_unfinished_run_is_left_out_and_left_there(tmp_path, record, row, effects):
    with Store.create_or_resume(tmp_path / "run", record()) as store:
        store.write(row(1), effects(1))
        store.write(row(2), effects(2))
    part_path(tmp_path / "run", 1).write_bytes(b"PAR1")
    assert open_run(tmp_path / "run").traced() == (2,)
    assert part_path(tmp_path / "run", 1).exists()


def test_a_run_that_finishes_while_it_is_read_is_read_whole(tmp_path, record, row, effects, monkeypatch):
    with Store.create_or_resume(tmp_path / "run", record()) as store:
        store.write(row(1), effects(1))

        def late(folder, **_):
            store.finish()
            return iter(())

        monkeypatch.setattr("patchpoint.results.read.read_parts", late)
        saved = open_run(tmp_path / "run")
    assert saved.record.status == "finished"
    assert saved.traced() == (1,)


def test_no_run_is_one_line(tmp_path):
    with pytest.raises(ResultsError, match="no run in"):
        open_run(tmp_path)
    with pytest.raises(ResultsError, match="no run in"):
        query(tmp_path / "absent", "SELECT 1")


def test_sql_sees_both_tables(folder, grid):
    answer = query(
        folder,
        "SELECT fact, prompt, max(effect) AS top, tokens[2] AS second FROM effects JOIN facts USING (fact) "
        "WHERE status = 'traced' GROUP BY ALL ORDER BY fact DESC",
    )
    assert answer.columns == ("fact", "prompt", "top", "second")
    assert answer.rows == tuple(
        (fact, f"The tower {fact} is in", float(grid(fact)[0].max()), " tower") for fact in (6, 3, 2, 1)
    )


def test_text_of_every_kind_survives(tmp_path, record, row, effects):
    odd = ["\0", "\n", " ", "'; DROP TABLE facts; --", "\u2028\U0001f600"]
    with Store.create_or_resume(tmp_path / "run", record()) as store:
        store.write({**row(1), "tokens": odd, "prompt": "".join(odd)}, effects(1))
        store.finish()
    assert open_run(tmp_path / "run").fact(1)["tokens"] == odd
    assert query(tmp_path / "run", "SELECT tokens, prompt FROM facts").rows == ((odd, "".join(odd)),)


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELCT 1", "syntax error"),
        ("SELECT nothing FROM effects", "nothing"),
        ("SELECT * FROM effect", "effect does not exist"),
        ("", "the query is empty"),
        ("-- nothing", "the query is empty"),
        ("SELECT 1/", "syntax error"),
        ("SELECT 'a'::INTEGER", "Conversion Error"),
        ("SELECT * FROM '/etc/passwd'", "(disabled|Permission|does not exist)"),
        ("SELECT * FROM read_text('/etc/passwd')", "(disabled|Permission)"),
        ("COPY facts TO 'out.csv'", "(disabled|Permission)"),
        ("ATTACH 'other.db'", "(disabled|Permission)"),
        ("INSTALL httpfs", "(disabled|Permission)"),
        ("SET enable_external_access = true", "locked"),
        ("DELETE FROM effects", "the query failed"),
        ("SELECT '\ud800'", "the query failed"),
    ],
)
def test_a_query_that_fails_or_leaves_the_run_is_one_line(folder, tmp_path, monkeypatch, sql, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ResultsError, match=message) as caught:
        query(folder, sql)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["it's; DROP"]


def test_a_copied_folder_is_the_same_run(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    assert open_run(tmp_path / "copy").facts.equals(open_run(folder).facts)
