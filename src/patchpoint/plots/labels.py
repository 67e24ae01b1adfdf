"""Text in pictures: what a token looks like, and how it stays plain text in each kind of picture.

Token text is arbitrary: control characters, mark-up, mathematics signs, scripts without a glyph.
Every text of a picture passes `visible` or `prose`, then one of `drawable` (matplotlib), `plotly_text`
(Plotly labels and hover) or `escaped` (HTML).
"""

import unicodedata
from collections.abc import Sequence
from functools import cache
from html import escape

from matplotlib import font_manager

FONT = "DejaVu Sans"
MARKS = {" ": "␣", "\n": "↵", "\t": "⇥"}
UNSEEN_CATEGORIES = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"})
# Default-ignorable or blank characters whose category is that of a letter, mark or symbol.
UNSEEN = frozenset(
    map(
        chr,
        (
            *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0),
            *range(0x180B, 0x1810),
            *range(0xFE00, 0xFE10),
            *range(0xE0100, 0xE01F0),
        ),
    )
)


def visible(text: str) -> str:
    r"""Token text as shown in pictures: every character leaves a mark.

    A space becomes ␣, a newline ↵, a tab ⇥; any other character that draws nothing or steers the text
    (control, format, unassigned, surrogate, other spaces) its Python escape, e.g. ``\r`` or ``\u200b``.
    A leading combining mark stands on ◌; empty text is ``(empty)``. Never raises. For eyes, not for
    parsing: a token that spells ``\r`` with a backslash looks the same as a carriage return.
    """
    return _marked(text) or "(empty)"


def prose(text: str) -> str:
    """Running text, such as a prompt, as shown in captions: as `visible`, but plain spaces stay spaces."""
    return " ".join(_marked(part) for part in text.split(" "))


def shortened(text: str, limit: int) -> str:
    """`text`, cut to `limit` characters with a final … where it is longer."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def in_span(index: int, span: tuple[int, int] | None) -> bool:
    """Whether token `index` (from 0) lies in the half-open `span`; never when there is no span."""
    return span is not None and span[0] <= index < span[1]


def token_labels(tokens: Sequence[str], span: tuple[int, int] | None, limit: int) -> tuple[str, ...]:
    """One visible label per token, cut to `limit` characters; subject tokens end in ``*``.

    Tokens of equal text keep one label each, in order.
    """
    return tuple(
        shortened(visible(token), limit) + ("*" if in_span(index, span) else "")
        for index, token in enumerate(tokens)
    )


def drawable(text: str) -> str:
    r"""`text` with each character that DejaVu Sans (regular or bold) has no glyph for as its Python escape.

    CJK and emoji thus read ``\u6771`` or ``\U0001f600`` in matplotlib figures; the HTML page shows them.
    """
    known = _glyphs()
    return "".join(c if c in known or c == "\n" else _python_escape(c) for c in text)


def escaped(text: str) -> str:
    """`text` as HTML text or attribute value."""
    return escape(text, quote=True)


def plotly_text(text: str) -> str:
    """`text` as a Plotly label, shown literally: no tags, no entities, no mathematics.

    plotly.js decodes few named entities, ``&quot;`` not among them, so quotes stay as they are; it takes
    text between dollar signs as TeX where MathJax is loaded, so these become numeric entities.
    """
    return escape(text, quote=False).replace("$", "&#36;")


def _marked(text: str) -> str:
    marked = "".join(map(_mark, text))
    return "◌" + marked if marked and unicodedata.category(marked[0]).startswith("M") else marked


def _mark(character: str) -> str:
    if character in MARKS:
        return MARKS[character]
    if character in UNSEEN or unicodedata.category(character) in UNSEEN_CATEGORIES:
        return _python_escape(character)
    return character


def _python_escape(character: str) -> str:
    """The escape even of printable Latin-1, which unicode_escape covers from U+0080 on."""
    return character.encode("unicode_escape").decode("ascii")


@cache
def _glyphs() -> frozenset[str]:
    """Characters that both weights used in figures can draw."""
    faces = (
        font_manager.get_font(
            font_manager.findfont(font_manager.FontProperties(family=FONT, weight=weight))
        ).get_charmap()
        for weight in ("normal", "bold")
    )
    regular, bold = (frozenset(map(chr, face)) for face in faces)
    return regular & bold
