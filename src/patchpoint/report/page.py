"""A page of the report: one HTML file that says what was asked, how to run it again, and what was found.

It needs no script, fetches nothing, and reads the same on paper, on a telephone, by day and by night. Every text
passes `prose` and `escaped` before it enters the page.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import Template
from urllib.parse import quote

from matplotlib.figure import Figure

from patchpoint.errors import InvalidArgument
from patchpoint.plots.labels import escaped, prose

from .inline import inline_svg
from .sheet import PAGE
from .tables import Table, brief

ROWS = 200
"""Rows of a table that are shown; its CSV file has them all."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """A figure on a page: `alt` says in words what it shows, `files` are its files next to the page."""

    figure: Figure
    alt: str
    files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.alt.strip():
            raise InvalidArgument("a figure of a page has no alt text; say in words what it shows")


@dataclass(frozen=True, kw_only=True, eq=False)
class Section:
    """A part of a page: `text` (paragraphs end in an empty line), then tables, then figures."""

    title: str
    text: str = ""
    figures: tuple[Drawn, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A line of an index: `file` is the page's path from the index, `line` what it is about."""

    title: str
    file: str
    line: str


def experiment_page(
    *,
    title: str,
    question: str,
    source: str,
    command: str,
    call: str,
    settings: Mapping[str, object],
    sections: Sequence[Section],
    files: Sequence[str] = (),
) -> str:
    """An experiment as one HTML page.

    `source`: paper and section; `command` and `call`: the command line and the Python call that give the same
    result; `files`: further files next to the page. Tables link to their own CSV and TeX files.
    """
    numbers = iter(range(1, 1 + sum(len(section.figures) for section in sections)))
    parts = [
        f"<p class=question>{_shown(question)}</p>",
        f"<p>Source: {_shown(source)}</p>",
        *(_section(section, numbers) for section in sections),
        "<section><h2>How to get the same</h2>",
        f"<p>Command line</p>{_code(command)}<p>Python</p>{_code(call)}</section>",
        f"<section><h2>Settings</h2>{_settings(settings)}</section>",
        f"<section><h2>Files</h2>{_links(files)}</section>" if files else "",
    ]
    return _page(title, parts)


def index_page(entries: Sequence[Entry], *, title: str = "Experiments") -> str:
    """The list of pages in a folder, a line each, as an HTML page."""
    rows = "".join(
        f"<dt>{_link(entry.file, entry.title)}</dt><dd>{_shown(entry.line)}</dd>\n" for entry in entries
    )
    return _page(title, [f"<dl>{rows}</dl>" if entries else "<p>No experiment has been run yet.</p>"])


def _page(title: str, parts: Iterable[str]) -> str:
    return Template(PAGE).substitute(title=_shown(title), body="\n".join(part for part in parts if part))


def _section(section: Section, numbers: Iterable[int]) -> str:
    paragraphs = (part for part in section.text.split("\n\n") if part.strip())
    return "\n".join(
        [
            f"<section><h2>{_shown(section.title)}</h2>",
            *(f"<p>{_shown(' '.join(part.split(chr(10))))}</p>" for part in paragraphs),
            *map(_table, section.tables),
            *(_figure(drawn, number) for drawn, number in zip(section.figures, numbers, strict=False)),
            "</section>",
        ]
    )


def _figure(drawn: Drawn, number: int) -> str:
    image = inline_svg(drawn.figure, prefix=f"figure{number}-", alt=prose(drawn.alt))
    files = f"<figcaption>{_links(drawn.files)}</figcaption>" if drawn.files else ""
    return f"<figure>{image}{files}</figure>"


def _table(table: Table) -> str:
    numeric, rows = table.numeric, table.rows
    names = zip(table.header, numeric, strict=True)
    head = "".join(f'<th scope="col"{_kind(number)}>{_shown(name)}</th>' for name, number in names)
    body = "".join(f"<tr>{_row(row, numeric)}</tr>\n" for row in rows[:ROWS])
    cut = (
        f"<p>The first {ROWS} of {len(rows)} rows; the CSV file has them all.</p>" if len(rows) > ROWS else ""
    )
    caption = _shown(table.caption)
    files = _links((f"{table.name}.csv", f"{table.name}.tex"))
    return (
        f'<p class=caption>{caption} {files}</p>\n<div class=wide><table aria-label="{caption}">'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>{cut}"
    )


def _row(cells: Sequence[object], numeric: Sequence[bool]) -> str:
    first, *others = [
        f"{_kind(number)}>{_missing() if text is None else _shown(text)}"
        for text, number in zip(map(brief, cells), numeric, strict=True)
    ]
    return f'<th scope="row"{first}</th>' + "".join(f"<td{cell}</td>" for cell in others)


def _kind(number: bool) -> str:
    return " class=number" if number else ""


def _missing() -> str:
    return "<span class=missing>not measured</span>"


def _settings(settings: Mapping[str, object]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{_shown(name)}</th><td>{_shown(brief(value) or "none")}</td></tr>\n'
        for name, value in settings.items()
    )
    return f"<div class=wide><table class=settings><tbody>{rows}</tbody></table></div>"


def _code(text: str) -> str:
    return f"<pre><code>{chr(10).join(_shown(line) for line in text.split(chr(10)))}</code></pre>"


def _links(files: Iterable[str]) -> str:
    return " · ".join(_link(file, file) for file in files)


def _link(file: str, text: str) -> str:
    """A link to a file beside the page; the leading dot keeps every name from being an address elsewhere."""
    return f'<a href="./{quote(file, errors="replace")}">{_shown(text)}</a>'


def _shown(text: str) -> str:
    return escaped(prose(text))
