from __future__ import annotations

from pathlib import Path

import pytest

from creativewritinggpt.data.text import decode, lines
from creativewritinggpt.errors import InputError

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
