"""Fact files: three formats, every malformed row named, the others kept."""

import csv
import hashlib
import io
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patchpoint.errors import FactError
from patchpoint.tasks.facts import Fact, read_facts

KNOWN = Path(__file__).parents[2].parent / "shared" / "data" / "known_1000.json"
GOOD = {"prompt": "Paris is in", "subject": "Paris", "attribute": "France"}


def json_list(rows: list[dict[str, object]]) -> str:
    return json.dumps(rows)


def json_lines(rows: list[dict[str, object]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def csv_text(rows: list[dict[str, object]]) -> str:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, ["extra", "prompt", "subject", "attribute", "known_id"], restval="")
    writer.writeheader()
    writer.writerows({name: "" if value is None else value for name, value in row.items()} for row in rows)
    return file.getvalue()


WRITERS = {".json": json_list, ".jsonl": json_lines, ".csv": csv_text}

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
word = text.map(str.strip).filter(bool)


@st.composite
def facts(draw: st.DrawFn) -> list[Fact]:
    found = []
    for _ in range(draw(st.integers(1, 5))):
        subject = draw(word)
        prompt = (draw(text) + subject + draw(text)).rstrip()
        if prompt and subject in prompt:
            known_id = draw(st.none() | st.integers(-(2**70), 2**70))
            found.append(Fact(len(found) + 1, prompt, subject, draw(word), known_id))
    return found or [Fact(1, **GOOD)]


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(facts=facts())
def test_written_facts_come_back(tmp_path, suffix, bom, facts):
    rows = [
        {name: getattr(f, name) for name in ("prompt", "subject", "attribute", "known_id")} for f in facts
    ]
    path = tmp_path / f"facts{suffix}"
    data = bom + WRITERS[suffix](rows).encode()
    path.write_bytes(data)
    found = read_facts(path)
    assert found.facts == tuple(facts)
    assert found.problems == ()
    assert found.path == path
    assert found.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("suffix", WRITERS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(data=st.binary(max_size=200) | text.map(str.encode))
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path, suffix, data):
    path = tmp_path / f"facts{suffix}"
    path.write_bytes(data)
    outcome = ""
    try:
        found = read_facts(path)
    except FactError as error:
        outcome = str(error)
    assert "\n" not in outcome
    assert outcome or found.facts


def test_known_1000_has_no_malformed_row():
    if not KNOWN.is_file():
        pytest.skip("known_1000.json is not beside the checkout")
    found = read_facts(KNOWN)
    raw = json.loads(KNOWN.read_text(encoding="utf-8"))
    assert (len(found.facts), found.problems) == (1209, ())
    for number, (fact, row) in enumerate(zip(found.facts, raw, strict=True), start=1):
        names = ("prompt", "subject", "attribute", "known_id", "relation_id", "prediction")
        assert fact == Fact(number, *(row[name] for name in names))


BAD_OBJECTS = [
    ({"subject": "Paris", "attribute": "France"}, "prompt is missing"),
    ({**GOOD, "attribute": " "}, "attribute is empty"),
    ({**GOOD, "prompt": ""}, "prompt is empty"),
    ({**GOOD, "subject": "paris"}, "subject 'paris' is not in the prompt 'Paris is in'"),
    ({**GOOD, "subject": 3}, "subject must be text, got 3"),
    (
        {**GOOD, "attribute": None, "prompt": ["Paris"]},
        "prompt must be text, got ['Paris']; attribute must be",
    ),
    ({**GOOD, "known_id": "3"}, "known_id must be a whole number, got '3'"),
    ({**GOOD, "known_id": True}, "known_id must be a whole number, got True"),
    ({**GOOD, "attribute": "\ud800"}, "attribute '\\ud800' holds half of a surrogate pair"),
    ([GOOD], "expected an object with prompt, subject, attribute; got [{"),
    (None, "expected an object with prompt, subject, attribute; got None"),
    ({**GOOD, "subject": "x" * 1_000_000}, "subject 'xxxx"),
]


@pytest.mark.parametrize(("row", "reason"), BAD_OBJECTS)
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_a_malformed_object_is_named_and_the_others_stay(tmp_path, suffix, row, reason):
    rows = [json.dumps(r) for r in (GOOD, row, GOOD)]
    path = tmp_path / f"facts{suffix}"
    path.write_text("[" + ",".join(rows) + "]" if suffix == ".json" else "\n".join(rows), encoding="utf-8")
    found = read_facts(path)
    assert [fact.number for fact in found.facts] == [1, 3]
    assert [problem.number for problem in found.problems] == [2]
    assert found.problems[0].reason.startswith(reason)
    assert "\n" not in found.problems[0].reason
    assert len(found.problems[0].reason) < 400


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": "Paris is in", "subject": "Paris"', "not valid JSON"),
        ("Paris is in,Paris,France", "not valid JSON"),
        ("[" * 100_000, "not usable JSON"),
        ('{"known_id": ' + "9" * 5000 + "}", "not usable JSON"),
        ("\0", "not valid JSON"),
    ],
)
def test_a_broken_json_line_costs_only_itself(tmp_path, line, reason):
    path = tmp_path / "facts.jsonl"
    path.write_text("\n".join([json.dumps(GOOD), "", line, json.dumps(GOOD)]), encoding="utf-8")
    found = read_facts(path)
    assert [fact.number for fact in found.facts] == [1, 3]
    assert [(p.number, p.reason[: len(reason)]) for p in found.problems] == [(2, reason)]


def test_a_line_separator_inside_a_json_string_ends_no_line(tmp_path):
    path = tmp_path / "facts.jsonl"
    path.write_text(json.dumps({**GOOD, "prompt": "Paris\u2028is in"}, ensure_ascii=False), encoding="utf-8")
    assert read_facts(path).facts[0].prompt == "Paris\u2028is in"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("Paris is in,Paris", "expected 4 columns as in the header, got 2"),
        ("Paris is in,Paris,France,7,8", "expected 4 columns as in the header, got 5"),
        ('"Paris"is in,Paris,France,7', "not valid CSV"),
        ('"Paris is in,Paris,France,7', "not valid CSV"),
        ("Paris is in,Rome,Italy,7", "subject 'Rome' is not in the prompt"),
        ("Paris is in,,France,7", "subject is empty"),
        ("Paris is in,Paris,France,seven", "known_id must be a whole number, got 'seven'"),
    ],
)
def test_a_malformed_csv_row_costs_only_itself(tmp_path, row, reason):
    good = "Paris is in,Paris,France,7"
    path = tmp_path / "facts.csv"
    path.write_text(
        "\n".join(["prompt, subject, attribute, known_id", good, "", row, good]), encoding="utf-8"
    )
    found = read_facts(path)
    assert found.facts == (Fact(1, **GOOD, known_id=7), Fact(3, **GOOD, known_id=7))
    assert [(p.number, p.reason[: len(reason)]) for p in found.problems] == [(2, reason)]


def test_nul_bytes_and_huge_fields_are_read(tmp_path):
    path = tmp_path / "facts.csv"
    limit = csv.field_size_limit()
    path.write_text(
        f"prompt,subject,attribute\nPa\0ris is,Pa\0ris,F\n{'a' * 300_000},a,F\n", encoding="utf-8"
    )
    first, second = read_facts(path).facts
    assert first.subject == "Pa\0ris"
    assert len(second.prompt) == 300_000
    assert csv.field_size_limit() == limit


def test_white_space_where_the_answer_joins_is_dropped_and_only_there(tmp_path):
    path = tmp_path / "facts.json"
    row = {"prompt": "  Paris \n is in \t\n", "subject": " Paris ", "attribute": " France "}
    path.write_text(json.dumps([row]), encoding="utf-8")
    assert read_facts(path).facts == (Fact(1, "  Paris \n is in", "Paris", "France"),)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("facts.json", b"", "it is empty"),
        ("facts.csv", b"\xef\xbb\xbf \r\n", "it is empty"),
        ("facts.json", json.dumps([GOOD]).encode("utf-16"), r"not UTF-8 \(byte 0xff at offset 0\)"),
        ("facts.json", b"[1,", "not valid JSON"),
        ("facts.json", b'"facts"', "its JSON is not a list but 'facts'"),
        ("facts.json", b"[]", "it holds no rows"),
        ("facts.jsonl", b"nope\n[1]", "2 malformed; row 1: not valid JSON"),
        ("facts.csv", b"prompt,subject,attribute\n", "it holds no rows"),
        ("facts.csv", b"prompt,object\na,b\n", "column subject, attribute .* found 'prompt, object'"),
        ("facts.csv", b"prompt,prompt,subject,attribute\na,a,a,a\n", "column prompt must be there once"),
        ("facts.csv", b'"prompt"s,subject,attribute\na,a,a\n', "its first line is not valid CSV"),
        ("facts.txt", b"Paris is in France\n", "unknown format, it begins with 'Paris is"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(tmp_path, name, data, reason):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(FactError, match=reason) as caught:
        read_facts(path)
    assert "\n" not in str(caught.value)


def test_a_path_that_is_no_file_is_refused(tmp_path):
    with pytest.raises(FactError, match="no file"):
        read_facts(tmp_path / "absent.json")
    with pytest.raises(FactError, match="a folder or a device"):
        read_facts(tmp_path)
    with pytest.raises(FactError, match="cannot read"):
        read_facts("a\0b")


@pytest.mark.parametrize(
    ("name", "content"),
    [("facts.json", json_lines), ("facts", json_lines), ("facts", json_list), ("facts.TXT", csv_text)],
)
def test_the_format_is_found_without_the_usual_suffix(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content([GOOD, GOOD]), encoding="utf-8")
    assert read_facts(path).facts == (Fact(1, **GOOD), Fact(2, **GOOD))


@pytest.mark.parametrize(
    "change", [{"number": 0}, {"subject": "Rome"}, {"attribute": ""}, {"prompt": "Paris is in "}]
)
def test_a_fact_is_valid_from_birth(change):
    with pytest.raises(FactError):
        Fact(**{"number": 1, **GOOD, **change})
