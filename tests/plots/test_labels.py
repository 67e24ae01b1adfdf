import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.font_manager import FontProperties, findfont, get_font

from patchpoint.plots.labels import drawable, plotly_text, prose, shortened, token_labels, visible

any_text = st.text(st.characters(exclude_categories=()))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" Tower", "␣Tower"),
        ("  ", "␣␣"),
        ("\n", "↵"),
        ("\t", "⇥"),
        ("\r", r"\r"),
        ("\x00", r"\x00"),
        ("\u200b", r"\u200b"),
        ("\u202eabc", r"\u202eabc"),
        ("\xa0", r"\xa0"),
        ("\ud800", r"\ud800"),
        ("\u3164", r"\u3164"),
        ("\ufe0f", r"\ufe0f"),
        ("\u0301", "◌\u0301"),
        ("", "(empty)"),
        ("<b>", "<b>"),
        ("東京", "東京"),
    ],
)
def test_visible_text(text, shown):
    assert visible(text) == shown


@given(any_text)
def test_visible_text_leaves_a_mark_for_every_character(text):
    shown = visible(text)
    assert shown.isprintable()
    assert not any(c.isspace() for c in shown)
    assert len(shown) >= len(text)
    assert not unicodedata.category(shown[0]).startswith("M")


@given(any_text)
def test_prose_keeps_plain_spaces_only(text):
    shown = prose(text)
    assert shown.isprintable()
    assert shown.count(" ") == text.count(" ")


@given(any_text)
def test_r60_plotly_text_holds_no_markup_and_reads_back(text):
    shown = plotly_text(visible(text))
    assert not set("<>$") & set(shown)
    entities = {"mu": "\u03bc", "amp": "&", "lt": "<", "gt": ">", "nbsp": "\xa0", "times": "\xd7"}

    def as_plotly_js(match: re.Match[str]) -> str:
        name = match[1]
        return chr(int(name[1:])) if name.startswith("#") else entities.get(name, match[0])

    decoded = re.sub(r"&(#\d+|#x[\da-fA-F]+|[a-z]+);", as_plotly_js, shown)
    assert decoded == visible(text)


@given(any_text)
def test_drawable_text_has_a_glyph_for_every_character_in_both_weights(text):
    shown = drawable(visible(text))
    for weight in ("normal", "bold"):
        face = get_font(findfont(FontProperties(family="DejaVu Sans", weight=weight))).get_charmap()
        assert all(ord(c) in face for c in shown)


def test_drawable_text_spells_out_what_has_no_glyph():
    assert drawable("東a\U0001f9ff") == r"\u6771a\U0001f9ff"


def test_token_labels_star_the_subject_after_its_text():
    assert token_labels(["A", " b", " c"], (1, 2), 24) == ("A", "␣b*", "␣c")
    assert token_labels(["A", " b"], None, 24) == ("A", "␣b")


def test_r47_tokens_of_equal_text_keep_their_own_labels():
    assert token_labels([" the", " the", " the"], (1, 2), 24) == ("␣the", "␣the*", "␣the")


def test_long_labels_are_cut_but_keep_their_star():
    assert token_labels(["x" * 60], (0, 1), 10) == ("xxxxxxxxx…*",)
    assert shortened("ten_______", 10) == "ten_______"
