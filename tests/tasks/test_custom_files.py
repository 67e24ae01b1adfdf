"""Files of prompts: what is written comes back, and every bad row is named at once."""

import csv
import io
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patchpoint.errors import PromptError
from patchpoint.tasks.kinds.custom_files import PairRow, ValueRow, read_pairs, read_values

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ['"quoted" text', "two\nlines", "a,b;c", "it's\r\nhere", "naïve 東京 🙂", "\u2028", "{brace}"]
)
full = text.map(str.strip).filter(bool)


def json_lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def csv_text(rows):
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


WRITERS = {".json": json.dumps, ".jsonl": json_lines, ".csv": csv_text}
pair = st.fixed_dictionaries(
    {
        "clean": full,
        "corrupt": full,
        "correct": full,
        "incorrect": full,
        "group": st.just("") | full,
        "source": full,
    }
).filter(lambda row: row["clean"] != row["corrupt"] and row["correct"] != row["incorrect"])


@pytest.mark.parametrize("suffix", WRITERS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(rows=st.lists(pair, min_size=1, max_size=4))
def test_pairs_come_back(tmp_path, suffix, rows):
    path = tmp_path / f"pairs{suffix}"
    path.write_bytes(WRITERS[suffix](rows).encode())
    assert read_pairs(path) == tuple(
        PairRow(
            row["clean"],
            row["corrupt"],
            f" {row['correct']}",
            f" {row['incorrect']}",
            row["group"],
            {"source": row["source"]},
        )
        for row in rows
    )


@pytest.mark.parametrize("suffix", WRITERS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(rows=st.lists(st.fixed_dictionaries({"city": full, "land": full, "group": full}), min_size=1))
def test_values_come_back(tmp_path, suffix, rows):
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(WRITERS[suffix](rows).encode())
    assert read_values(path, ("city", "land")) == tuple(ValueRow(row, row["group"]) for row in rows)


@pytest.mark.parametrize("suffix", WRITERS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(data=st.binary(max_size=120) | text.map(str.encode))
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path, suffix, data):
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(data)
    for read in (read_pairs, lambda file: read_values(file, ("a",))):
        outcome = ""
        try:
            found = read(path)
        except PromptError as error:
            outcome = str(error)
        assert len(outcome.splitlines()) < 2
        assert outcome or found


GOOD = {"clean": "a b", "corrupt": "a c", "correct": "d", "incorrect": "e"}


def refused(tmp_path, rows):
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    with pytest.raises(PromptError) as caught:
        read_pairs(path)
    message = str(caught.value)
    assert message.startswith(f"cannot use {str(path)!r} as a file of prompts: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({**GOOD, "clean": None}, "clean is missing"),
        ({**GOOD, "clean": " "}, "clean is empty; give its text"),
        ({**GOOD, "clean": ["a"]}, "clean must be text, got ['a']"),
        ({**GOOD, "corrupt": None}, "corrupt is missing"),
        ({**GOOD, "corrupt": "a b "}, "corrupt is the same as clean, 'a b'"),
        ({**GOOD, "correct": True}, "correct must be text, got True"),
        ({**GOOD, "correct": ""}, "correct is empty"),
        ({**GOOD, "incorrect": " d"}, "incorrect is the same as correct, ' d'"),
        ({**GOOD, "clean": "\ud800"}, "clean '\\ud800' holds half of a surrogate pair"),
        ("{", "not valid JSON"),
        ([1], "expected an object with clean, correct; got [1]"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, reason):
    assert f"row 2: {reason}" in refused(tmp_path, [GOOD, row, GOOD])


def test_all_bad_rows_are_named_at_once(tmp_path):
    nameless, empty = {"corrupt": "x", "correct": "d"}, {**GOOD, "correct": " "}
    message = refused(tmp_path, [nameless, GOOD, empty, nameless, "nope", GOOD, nameless])
    assert "rows 1, 4, 7: clean is missing; row 3: correct is empty" in message
    assert "row 5: not valid JSON" in message
    many = refused(tmp_path, [nameless] * 50)
    assert "rows 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 40 more: clean is missing" in many
    odd = refused(tmp_path, [{**GOOD, "clean": [number]} for number in range(50)])
    assert "row 20: clean must be text, got [19]; other faults in rows 21, 22," in odd


def test_numbers_are_texts_and_other_columns_are_kept(tmp_path):
    path = tmp_path / "pairs.jsonl"
    row = {
        "clean": "1 + 1 =",
        "correct": 2,
        "incorrect": 3.5,
        "group": 7,
        "tags": ["x"],
        "n": 4,
        "none": None,
    }
    path.write_text(json.dumps(row))
    assert read_pairs(path) == (PairRow("1 + 1 =", None, " 2", " 3.5", "7", {"tags": '["x"]', "n": 4}),)


def test_answers_with_white_space_of_their_own_keep_it(tmp_path):
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps([{"clean": "a: ", "correct": "\nb\n", "incorrect": "c "}]))
    assert read_pairs(path) == (PairRow("a:", None, "\nb", " c"),)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("", "it is empty"),
        ("clean,answer\na,b\n", "column correct must be there once"),
        ("clean,correct\n", "it holds no rows"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path, data, reason):
    path = tmp_path / "pairs.csv"
    path.write_text(data)
    with pytest.raises(PromptError, match=reason):
        read_pairs(path)
    with pytest.raises(PromptError, match=r"no file .* give the path of a file of prompts"):
        read_pairs(tmp_path / "absent.csv")


def test_columns_that_a_template_needs_must_be_there(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("city,land\nParis,France\nRome,\n,Spain\n")
    with pytest.raises(PromptError, match="column river must be there once"):
        read_values(path, ("river",))
    with pytest.raises(PromptError, match="row 2: land is missing; row 3: city is missing"):
        read_values(path, ("city", "land"))
