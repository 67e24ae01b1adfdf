import csv
import re
from io import StringIO

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchpoint.errors import InvalidArgument, ResultsError
from patchpoint.report import Table, write_table
from patchpoint.report.tables import csv_text, tex, tex_text

FRAME = pd.DataFrame(
    {
        "role": ["last subject token", "50% & more_", "␣Paris*"],
        "effect (probability)": [0.1 + 0.2, -1.234567e-7, np.nan],
        "facts": [1, 12, 123456],
        "exact": [True, False, True],
    }
)


def read_csv(text):
    return list(csv.reader(StringIO(text, newline="")))


def test_csv_keeps_every_digit_and_leaves_missing_values_empty(tmp_path):
    path, _ = write_table(FRAME, tmp_path / "new", "effects", "c")
    assert path == tmp_path / "new" / "effects.csv"
    header, first, second, third = read_csv(path.read_bytes().decode("utf-8"))
    assert header == ["role", "effect (probability)", "facts", "exact"]
    assert first == ["last subject token", "0.30000000000000004", "1", "yes"]
    assert float(second[1]) == -1.234567e-7
    assert third == ["␣Paris*", "", "123456", "yes"]
    assert np.isnan(pd.read_csv(path)["effect (probability)"][2])


def test_tex_is_a_booktabs_table_with_four_digits(tmp_path):
    _, path = write_table(FRAME, tmp_path, "effects", "Effects_1 by role")
    assert path.read_text("utf-8").splitlines() == [
        r"\begin{table}",
        r"\centering",
        r"\caption{Effects\_1 by role}",
        r"\label{tab:effects}",
        r"\begin{tabular}{lrrl}",
        r"\toprule",
        r"role & effect (probability) & facts & exact \\",
        r"\midrule",
        r"last subject token & $0.3$ & $1$ & yes \\",
        r"50\% \& more\_ & $-1.235 \times 10^{-7}$ & $12$ & no \\",
        r"\textvisiblespace{}Paris{*} & --- & $123456$ & yes \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("\\", r"\textbackslash{}"),
        ("a&b%c$d#e_f{g}", r"a\&b\%c\$d\#e\_f\{g\}"),
        ("~^<>|", r"\textasciitilde{}\textasciicircum{}\textless{}\textgreater{}\textbar{}"),
        ("*x", "{*}x"),
        ("[1]", "{[}1{]}"),
        ("--limit", "-{}-limit"),
        ("``it''", "`{}`it'{}'"),
        ("two  spaces", "two\\  spaces"),
        ("é", "é"),
        ("\n", r"$\hookleftarrow$"),
        ("\x00", r"\textbackslash{}x00"),
        ("東", r"\textbackslash{}u6771"),
        ("\ud800", r"\textbackslash{}ud800"),
    ],
)
def test_r60_latex_prints_special_characters(text, written):
    assert tex(text) == written


@given(st.text())
def test_r60_no_text_can_steer_latex(text):
    left = tex(text)
    for known in sorted(KNOWN, key=len, reverse=True):
        left = left.replace(known, "")
    assert not re.search(r"[\\{}$&#%_^~<>|\"\n\r*\[\]]", left.replace("{}", "")), (text, left)
    left.encode("utf-8")
    assert all(c <= "~" or "\u00c0" <= c <= "\u017f" for c in left)


KNOWN = {
    *(rf"\text{name}{{}}" for name in ("backslash", "asciicircum", "asciitilde", "less", "greater", "bar")),
    *(rf"\{character}" for character in "{}$&#%_ "),
    *(r"\char34{}", "{*}", "{[}", "{]}", r"\textvisiblespace{}", r"\ldots{}"),
    *(f"$\\{name}$" for name in ("hookleftarrow", "mapsto", "circ", "rightarrow", "pm", "times")),
    "$-$",
}


@given(st.lists(st.lists(st.text(st.characters(codec="utf-8")), min_size=2, max_size=2), min_size=1))
def test_csv_gives_any_text_back(rows):
    table = Table(name="t", frame=pd.DataFrame(rows, columns=["a", "b"], dtype=object), caption="")
    assert read_csv(csv_text(table)) == [["a", "b"], *rows]


@given(st.lists(st.floats(allow_nan=False), min_size=1))
def test_csv_gives_any_number_back(values):
    read = read_csv(csv_text(Table(name="t", frame=pd.DataFrame({"x": values}), caption="")))
    assert [float(cell) for (cell,) in read[1:]] == values


@given(st.lists(st.one_of(st.text(), st.floats(), st.none(), st.integers()), min_size=1))
def test_any_cells_make_rows_of_the_right_number(cells):
    frame = pd.DataFrame({"a": pd.Series(cells, dtype=object), "b": pd.Series(cells, dtype=object)})
    lines = tex_text(Table(name="t", frame=frame, caption="")).splitlines()
    body = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    assert len(body) == len(cells)
    assert all(line.endswith(r" \\") and line.count(" & ") == 1 for line in body)


def test_a_named_index_counts_as_columns_and_a_plain_one_is_left_out(tmp_path):
    indexed = FRAME.set_index(["role", "facts"])[["exact"]]
    path, _ = write_table(indexed, tmp_path, "indexed", "")
    assert read_csv(path.read_text("utf-8"))[0] == ["role", "facts", "exact"]
    sorted_rows = FRAME.sort_values("facts", ascending=False)[["facts"]]
    path, _ = write_table(sorted_rows, tmp_path, "sorted", "")
    assert read_csv(path.read_text("utf-8")) == [["facts"], ["123456"], ["12"], ["1"]]


def test_text_that_utf_8_cannot_hold_is_written_as_its_escape(tmp_path):
    path, _ = write_table(pd.DataFrame({"token": ["\ud800"]}, dtype=object), tmp_path, "t", "\ud800")
    assert read_csv(path.read_text("utf-8")) == [["token"], ["\\ud800"]]


def test_equal_tables_give_equal_bytes(tmp_path):
    first = [path.read_bytes() for path in write_table(FRAME, tmp_path / "a", "t", "c")]
    assert first == [path.read_bytes() for path in write_table(FRAME.copy(), tmp_path / "b", "t", "c")]


def test_a_file_is_whole_or_the_old_one(tmp_path, monkeypatch):
    before = [path.read_bytes() for path in write_table(FRAME, tmp_path, "t", "old")]

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(ResultsError, match="No space left"):
        write_table(FRAME * 2, tmp_path, "t", "new")
    assert [(tmp_path / f"t.{suffix}").read_bytes() for suffix in ("csv", "tex")] == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv", "t.tex"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match="cannot make the folder"):
        write_table(FRAME, tmp_path / "file" / "deep", "t", "c")


@pytest.mark.parametrize("name", ["", "../t", "a/b", ".hidden", "t.", "a b", "é", "t}"])
def test_names_that_are_no_file_names_are_refused(tmp_path, name):
    with pytest.raises(InvalidArgument, match="no plain file name"):
        write_table(FRAME, tmp_path, name, "c")


def test_a_table_without_columns_is_refused(tmp_path):
    with pytest.raises(InvalidArgument, match="no columns"):
        write_table(pd.DataFrame(), tmp_path, "t", "c")


def test_a_table_without_rows_has_its_header(tmp_path):
    path, _ = write_table(FRAME[:0], tmp_path, "t", "c")
    assert read_csv(path.read_text("utf-8")) == [["role", "effect (probability)", "facts", "exact"]]
