from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from creativewritinggpt.data.text import (
    WORD,
    clean,
    clean_characters,
    clean_line,
    count_words,
    decode,
    ends_sentence,
    is_unspaced,
    lines,
    paragraph_ends,
    sentence_ends,
    sentences,
    tidy_layout,
)
from creativewritinggpt.errors import InputError

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


TEXT = (
    "Der König ging über die Brücke, und der Müller grüßte ihn.\n"
    "“Où est le garçon?” – “Là-bas, près de l’église.”\n"
    "Plain ASCII follows.\n"
) * 3


def read(data: bytes, tmp_path: Path) -> tuple[str, list[str]]:
    said: list[str] = []
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    text = decode(data, path, said.append)
    assert "".join(lines(path, lambda _: None)) == text
    return text, said


@pytest.mark.parametrize(
    ("encoding", "named"),
    [
        ("utf-8", None),
        ("utf-8-sig", None),
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16-LE"),
        ("utf-16-be", "UTF-16-BE"),
        ("utf-32", "UTF-32"),
        ("cp1252", "Windows-1252"),
    ],
)
def test_a_text_is_read_in_its_encoding_and_unusual_ones_are_said(
    encoding: str, named: str | None, tmp_path: Path
) -> None:
    text, said = read(TEXT.encode(encoding), tmp_path)
    assert text == TEXT
    assert said == ([] if named is None else [f"a.txt was read as {named}"])


def test_latin_1_with_few_accents_is_read(tmp_path: Path) -> None:
    text = "It was a café like any other, and nobody looked up. " * 30
    assert read(text.encode("latin-1"), tmp_path)[0] == text


def test_mixed_encodings_lose_nothing(tmp_path: Path) -> None:
    mixed = "Über alles".encode() + b"\n" + "Über alles".encode("cp1252") + b"\nplain\n"
    text, said = read(mixed, tmp_path)
    assert text == "Über alles\nÜber alles\nplain\n"
    assert "1 lines of a.txt were read as Windows-1252" in said


def test_other_scripts_are_read(tmp_path: Path) -> None:
    russian = "Все счастливые семьи похожи друг на друга. " * 20
    assert read(russian.encode("cp1251"), tmp_path)[0] == russian
    japanese = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。\n" * 20
    assert read(japanese.encode("shift_jis"), tmp_path)[0] == japanese


@pytest.mark.parametrize(
    "data", [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", bytes(range(256)) * 8, b"PK\x03\x04\0\0\0\0abc"]
)
def test_binary_files_are_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.txt is a binary file"):
        decode(data, path, lambda _: None)
    with pytest.raises(InputError, match="binary"):
        list(lines(path, lambda _: None))


def test_sentences_may_end_after_marks_and_what_closes_around_them() -> None:
    text = "“Go!” she said. He didn’t… *Why?* Dr. No knew.\n\nIt was 3.5 miles"
    parts = [
        text[a:b] for a, b in zip([0, *sentence_ends(text)], sentence_ends(text), strict=False)
    ]
    assert parts == ["“Go!” ", "she said. ", "He didn’t… ", "*Why?* ", "Dr. ", "No knew.\n\n"]
    assert paragraph_ends(text) == [text.index("It was")]
    assert sentence_ends("It ended.") == [9]


@pytest.mark.parametrize(
    ("text", "ends"),
    [("He left.", True), ("“Gone…”", True), ("(Why?)*", True), ("He left", False), ("So. ", False)],
)
def test_a_text_ends_with_a_sentence_or_not(text: str, ends: bool) -> None:
    assert ends_sentence(text) is ends


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The bell — rang twice.", 5),  # what stands between white space, as ever
        ("", 0),
        ("他问：“几点？”", 4),
        ("吾輩は猫である。", 7),
        ("Odile 数了 12 箱。", 5),
        ("안녕 세계", 2),
        ("ที่นี่", 2),
    ],
)
def test_words_are_counted_in_scripts_without_spaces_too(text: str, words: int) -> None:
    assert count_words(text) == words


@given(st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("他です ,。a"))))
def test_words_with_their_places_are_those_that_are_counted(text: str) -> None:
    found = WORD.findall(text)
    assert "".join(found) == "".join(text.split())
    signs = count_words(text) == len(text.split())
    assert signs or count_words(text) == sum(
        any(map(str.isalnum, word)) or is_unspaced(word[0]) for word in found
    )


def test_sentences_end_at_the_marks_of_other_scripts() -> None:
    assert sentences("他来了。「走！」我说。वह आया। वह गया। هل جاء؟ نعم") == [
        "他来了。",
        "「走！」",
        "我说。",
        "वह आया।",
        "वह गया।",
        "هل جاء؟",
        "نعم",
    ]
    assert sentence_ends("他来了。我说") == [4] and ends_sentence("「走！」")
