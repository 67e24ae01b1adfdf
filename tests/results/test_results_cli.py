"""`patchpoint results show` and `query`: plain text for people, one JSON document for machines."""

import json

import pytest
from typer.testing import CliRunner

from patchpoint.cli.results import app
from patchpoint.errors import ResultsError
from patchpoint.results import Store, open_run
from patchpoint.results.averages import saved_roles
from patchpoint.tracing.roles import average_by_role


@pytest.fixture
def folder(tmp_path, record, row, effects):
    with Store.create_or_resume(tmp_path / "run", record()) as store:
        for fact in range(1, 7):
            store.write(row(fact), effects(fact))
        store.write({"fact": 7, "status": "skipped", "reason": "[bold]\x1b[31mred\nline"})
        store.finish()
    return str(tmp_path / "run")


def called(*words: str) -> str:
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, list(words), catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_show_as_json_has_the_record_and_the_roles(folder):
    document = json.loads(called("show", folder, "--json"), parse_constant=pytest.fail)
    saved = open_run(folder)
    assert document["run"] == saved.record.model_dump(mode="json")
    assert document["run"]["counts"] == {"facts": 7, "traced": 4, "skipped": 2, "malformed": 1}
    assert [row["fact"] for row in document["not_traced"]] == [4, 5, 7]
    expected = average_by_role(
        [saved.effect(f) for f in saved.traced()], [saved.tokens(f) for f in saved.traced()]
    )
    assert set(document["roles"]) == set(expected["role"].values.tolist())
    for role, found in document["roles"].items():
        for name in ("mean", "std", "count"):
            values = [
                None if value != value else value for value in expected[name].sel(role=role).values.tolist()
            ]
            assert found[name] == values
        assert found["low"][0] is None or found["low"][0] < found["mean"][0] < found["high"][0]
    assert document["roles"]["first subject token"]["facts"] == [4, 4, 4]


def test_show_prints_settings_counts_roles_and_reasons(folder):
    text = called("show", folder)
    assert "4 traced, 2 skipped, 1 malformed" in text
    roles = saved_roles(open_run(folder)).sel(role="last subject token")
    there = roles.isel(layer=int(roles["mean"].argmax("layer")))
    line = next(line for line in text.splitlines() if "last subject token" in line)
    cells = [cell.strip() for cell in line.strip("│ ").split("│")]
    mean, low, high, std = (f"{float(there[name]):.4f}" for name in ("mean", "low", "high", "std"))
    assert cells == ["last subject token", "4", "4", str(int(there["layer"])), mean, f"{low} to {high}", std]
    assert "predicted another" in text
    assert "[bold]\\x1b[31mred\\nline" in text
    assert "\x1b" not in text


def test_a_single_fact_has_an_average_and_no_interval(tmp_path, record, row, effects):
    with Store.create_or_resume(tmp_path / "run", record()) as store:
        store.write(row(1), effects(1))
    assert "one fact" in called("show", str(tmp_path / "run"))
    found = json.loads(called("show", str(tmp_path / "run"), "--json"))["roles"]["first subject token"]
    assert (found["low"], found["high"], found["facts"]) == ([None] * 3, [None] * 3, [1, 1, 1])


def test_a_star_in_the_prompt_is_no_subject_mark(tmp_path, record, row, effects):
    with Store.create_or_resume(tmp_path / "run", record()) as store:
        store.write({**row(1), "tokens": ["*", " tower", " 1", " *", " in"]}, effects(1))
    counts = {
        role: found["count"][0]
        for role, found in json.loads(called("show", str(tmp_path / "run"), "--json"))["roles"].items()
    }
    assert counts["first subject token"] == counts["last subject token"] == 1
    assert counts["middle subject tokens"] == 0
    assert counts["first subsequent token"] == counts["last token"] == 1


def test_a_run_with_nothing_traced_can_be_shown(tmp_path, record):
    Store.create_or_resume(tmp_path / "run", record()).close()
    assert json.loads(called("show", str(tmp_path / "run"), "--json"))["roles"] is None
    assert "interrupted" in called("show", str(tmp_path / "run"))


def test_query_as_json_is_one_document(folder):
    sql = "SELECT fact, 'nan'::DOUBLE bad, [1, 2] list, 1.5::DECIMAL(4, 2) half, DATE '2020-01-02' AS day"
    document = json.loads(
        called("query", folder, f"{sql} FROM facts LIMIT 1", "--json"), parse_constant=pytest.fail
    )
    assert document == {
        "columns": ["fact", "bad", "list", "half", "day"],
        "rows": [[1, None, [1, 2], 1.5, "2020-01-02"]],
    }


def test_query_prints_a_table_of_literal_text(folder):
    text = called(
        "query", folder, 'SELECT reason AS "[bold]why", 0.123456789::DOUBLE AS x FROM facts WHERE fact = 7'
    )
    assert "[bold]why" in text
    assert "[bold]\\x1b[31mred\\nline" in text
    assert "0.123457" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("words", [("show",), ("query", "SELECT 1")])
def test_errors_are_left_to_the_main_command(tmp_path, words):
    with pytest.raises(ResultsError, match="no run in"):
        CliRunner().invoke(app, [words[0], str(tmp_path), *words[1:]], catch_exceptions=False)
