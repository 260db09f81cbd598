from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from creativewritinggpt.data.text import clean, clean_characters, clean_line, tidy_layout

MANY = settings(deadline=None, max_examples=300)
# Text with the troubles that files have, more often than chance would give them.
troubled = st.text(
    st.one_of(
        st.characters(),
        st.sampled_from("â€œâ€™Ã©Â \ufffd\r\n\t\x0b\x0c\x85\u2028\u200b\ufeff\u00ad\xa0 s't"),
    ),
    max_size=60,
)


def letters(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFC", text) if c.isalnum())


@MANY
@given(troubled)
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    once = clean(text)
    assert clean(once) == once


@MANY
@given(troubled)
def test_no_control_characters_are_left(text: str) -> None:
    cleaned = clean(text)
    assert not [c for c in cleaned if unicodedata.category(c) in ("Cc", "Cs") and c != "\n"]
    assert "\ufffd" not in cleaned and "\n\n\n" not in cleaned


@MANY
@given(
    st.text(st.characters(codec="utf-8", max_codepoint=0x17F, exclude_characters="Ââ"), max_size=60)
)
def test_no_letter_is_lost(text: str) -> None:
    # Letters that are signs of mojibake are left out: to change those is the point.
    if not any("\u00c2" <= c <= "\u00f4" for c in text):
        assert letters(clean(text)) == letters(text)


@pytest.mark.parametrize(
    ("damaged", "meant"),
    [
        ("â€œGo!â€\x9d she said. It wasnâ€™t late.", "“Go!” she said. It wasn’t late."),
        ("â€œHiâ€ and â€œhelloâ€. So", "“Hi” and “hello”. So"),
        ("CafÃ© noir, trÃ¨s bon", "Café noir, très bon"),
        ("one\r\ntwo\rthree", "one\ntwo\nthree"),
        ("a\u00adb\u200bc\ufeff", "abc"),
        ("it\ufffds gone, don\ufffdt \ufffd", "it's gone, don't"),
        ("two  spaces.  Then \n\n\n\nmore  ", "two spaces. Then\n\nmore"),
        ("e\u0301", "é"),
    ],
)
def test_damage_is_mended(damaged: str, meant: str) -> None:
    assert clean(damaged) == meant


@pytest.mark.parametrize(
    "text",
    [
        "“Café”, naïve — señor… ¿qué?",
        "Привет, мир. 你好，世界。 👩‍🚀",
        "Âge d'or; Ånge; Île",
        "plain ASCII, 'quoted' -- and dashed",
        "verse\n  indented\n    more",
    ],
)
def test_what_is_right_is_left_alone(text: str) -> None:
    assert clean(text) == text


def test_indentation_of_verse_stays_and_trailing_spaces_go() -> None:
    assert tidy_layout("first\n   second   \nthird  ") == "first\n   second\nthird"


def test_a_line_is_one_line() -> None:
    assert clean_line("  Title\n of\t it ") == "Title of it"
    assert clean_characters("a\x00b") == "ab"
