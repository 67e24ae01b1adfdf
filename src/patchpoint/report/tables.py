"""Tables as files: CSV with every digit for machines, LaTeX with four for papers."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from patchpoint.errors import InvalidArgument, ResultsError
from patchpoint.plots.labels import prose
from patchpoint.results.disk import replacing

NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)
DIGITS = 4
TEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\char34{}",
    # Behind the end of a row, LaTeX reads a star or a bracket as an argument of the command that ended it.
    "*": "{*}",
    "[": "{[}",
    "]": "{]}",
    "␣": r"\textvisiblespace{}",
    "↵": r"$\hookleftarrow$",
    "⇥": r"$\mapsto$",
    "◌": r"$\circ$",
    "→": r"$\rightarrow$",
    "±": r"$\pm$",
    "\u00d7": r"$\times$",
    "\u2212": "$-$",
    "\u2013": "--",
    "\u2014": "---",
    "…": r"\ldots{}",
}
INFINITY = r"\infty"
LIGATURES = frozenset("-'`,!?")
LAST_KEPT = "\u017f"
"""The last letter of Latin Extended-A; what lies above has no glyph in the fonts of most LaTeX classes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """A table of results: `name` is the stem of its files, `frame` has one named column per quantity.

    Column names carry their units. A named index counts as columns, an unnamed one is left out.
    Raises InvalidArgument for a name that is no plain file name and for a frame without columns.
    """

    name: str
    frame: pd.DataFrame
    caption: str

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise InvalidArgument(
                f"table name {self.name!r} is no plain file name; give letters, digits, '.', '_' and '-'"
            )
        if not len(self.columns.columns):
            raise InvalidArgument(f"table {self.name!r} has no columns; give at least one")

    @property
    def columns(self) -> pd.DataFrame:
        """The frame with its named index as first columns."""
        return self.frame.reset_index(drop=all(name is None for name in self.frame.index.names))

    @property
    def header(self) -> list[str]:
        """Text of each column's name."""
        return [
            " ".join(map(str, name)) if isinstance(name, tuple) else str(name)
            for name in self.columns.columns
        ]

    @property
    def rows(self) -> list[tuple[Any, ...]]:
        """The cells, row by row."""
        return list(self.columns.itertuples(index=False, name=None))

    @property
    def numeric(self) -> list[bool]:
        """Whether a column holds numbers only."""
        return [
            pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind)
            for kind in self.columns.dtypes
        ]


def write_table(frame: pd.DataFrame, folder: Path, name: str, caption: str) -> list[Path]:
    """Write `folder`/`name`.csv and `folder`/`name`.tex and return their paths.

    The CSV (RFC 4180, UTF-8) holds every digit and leaves missing values empty; the TeX file is a booktabs table
    with 4 significant digits, its caption, and the label ``tab:name``. Each file is whole or not written; equal
    tables give equal bytes. The folder is made when missing. Columns and index: see `Table`.
    Raises InvalidArgument for a bad name or no columns, ResultsError when the disk refuses.
    """
    table = Table(name=name, frame=frame, caption=caption)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ResultsError(f"cannot make the folder {str(folder)!r}: {reason}; give another path") from None
    contents = {folder / f"{name}.csv": csv_text(table), folder / f"{name}.tex": tex_text(table)}
    for path, text in contents.items():
        with replacing(path) as temporary:
            temporary.write_bytes(text.encode("utf-8", errors="backslashreplace"))
    return list(contents)


def csv_text(table: Table) -> str:
    """The table as CSV: numbers with every digit, text as it is, missing values empty."""
    text = StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(table.header)
    writer.writerows([_full(cell) for cell in row] for row in table.rows)
    return text.getvalue()


def tex_text(table: Table) -> str:
    """The table as a LaTeX float that needs the package booktabs, numbers right-aligned."""
    kinds = "".join("r" if number else "l" for number in table.numeric)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{tex(table.caption)}}}",
            rf"\label{{tab:{table.name}}}",
            rf"\begin{{tabular}}{{{kinds}}}",
            r"\toprule",
            _tex_row([tex(name) for name in table.header]),
            r"\midrule",
            *(_tex_row([_tex_cell(cell) for cell in row]) for row in table.rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def tex(text: str) -> str:
    r"""Any text as LaTeX that prints it: special characters and token marks as commands.

    What neither ASCII nor a Latin letter with an accent is, and has no command here, becomes its Python escape,
    so that a table compiles with every engine and font.
    """
    shown = prose(text)
    pairs = pairwise([*shown, ""])
    return "".join(_tex_character(character, behind) for character, behind in pairs)


def brief(value: object) -> str | None:
    """A cell in the fewest characters that a reader needs: 4 significant digits; None for a missing value."""
    if is_missing(value):
        return None
    if isinstance(value, float | np.floating):
        return f"{float(value):.{DIGITS}g}"
    return _full(value)


def is_missing(value: object) -> bool:
    """Whether a cell holds nothing: None, NaN, or pandas' own marks."""
    return (
        value is None
        or value is pd.NA
        or value is pd.NaT
        or (isinstance(value, float | np.floating) and bool(np.isnan(value)))
    )


def _full(value: object) -> str:
    if is_missing(value):
        return ""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return str(value)


def _tex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _tex_cell(value: object) -> str:
    text = brief(value)
    if text is None:
        return "---"
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number):
        return tex(text)
    mantissa, _, exponent = text.partition("e")
    power = rf" \times 10^{{{int(exponent)}}}" if exponent else ""
    return f"${mantissa.replace('inf', INFINITY)}{power}$"


def _tex_character(character: str, behind: str) -> str:
    if character in TEX:
        return TEX[character]
    if character in LIGATURES:
        return character + ("{}" if behind in LIGATURES and behind else "")
    if character == " ":
        return "\\ " if behind in (" ", "") else " "
    if character <= "~" or ("\u00c0" <= character <= LAST_KEPT and character.isalpha()):
        return character
    return tex(character.encode("unicode_escape").decode("ascii"))
