from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from manuscript_files import (
    STRICT,
    WORD,
    deleted,
    heading,
    inserted,
    paragraph,
    run,
    word,
    word_field,
)

from creativewritinggpt.data.readers.manuscripts import read_manuscript
from creativewritinggpt.errors import InputError

pytest.importorskip("lxml")

GONE = '<w:rPr><w:del w:id="3"/></w:rPr>'
BOX = (
    "<w:r><mc:AlternateContent><mc:Choice Requires='wps'><w:drawing><wps:txbx><w:txbxContent>"
    f"{paragraph('On a sign.')}</w:txbxContent></wps:txbx></w:drawing></mc:Choice><mc:Fallback>"
    f"<w:pict><v:textbox><w:txbxContent>{paragraph('On a sign.')}</w:txbxContent></v:textbox>"
    "</w:pict></mc:Fallback></mc:AlternateContent></w:r>"
)


def text_of(path: Path, *body: str, **options: str) -> str:
    book = read_manuscript(word(path / "a.docx", *body, **options))  # type: ignore[arg-type]
    return "\n\n".join(chapter.text for chapter in book.chapters)


def test_tracked_changes_are_as_accepted(tmp_path: Path) -> None:
    body = [
        paragraph("Before ", inserted("inserted "), deleted("struck "), "after."),
        paragraph(inserted("A whole paragraph."), properties='<w:rPr><w:ins w:id="2"/></w:rPr>'),
        paragraph("One half ", properties=GONE),
        paragraph("and the other."),
        paragraph(deleted("All of it."), properties=GONE),
        paragraph(f'<w:moveFrom w:id="9">{run("It moved.")}</w:moveFrom>'),
        paragraph("Between."),
        paragraph(f'<w:moveTo w:id="9">{run("It moved.")}</w:moveTo>'),
    ]
    book = read_manuscript(word(tmp_path / "a.docx", *body))
    assert [chapter.text.split("\n\n") for chapter in book.chapters] == [
        [
            "Before inserted after.",
            "A whole paragraph.",
            "One half and the other.",
            "Between.",
            "It moved.",
        ]
    ]
    assert book.left_out == {"deleted text": len("struckAllofit."), "text moved elsewhere": 8}


def test_content_controls_fields_links_boxes_and_tables_are_text(tmp_path: Path) -> None:
    control = f"<w:sdt><w:sdtPr/><w:sdtContent>{paragraph('In a control.')}</w:sdtContent></w:sdt>"
    inline = f"<w:sdt><w:sdtPr/><w:sdtContent>{run('a choice')}</w:sdtContent></w:sdt>"
    cells = "".join(f"<w:tc>{paragraph(text)}</w:tc>" for text in ("left", "right"))
    nested = f"<w:tbl><w:tr><w:tc>{paragraph('inner')}</w:tc></w:tr></w:tbl>"
    struck = f"<w:tr><w:trPr><w:del/></w:trPr><w:tc>{paragraph('struck')}</w:tc></w:tr>"
    full = f"<w:tc>{paragraph('One.')}{paragraph('Two.')}{nested}</w:tc>"
    body = [
        control,
        paragraph("Made ", inline, "."),
        paragraph("A ", f"<w:hyperlink>{run('link')}</w:hyperlink>", "."),
        paragraph("On ", word_field("DATE", run("May 3")), " it came."),
        paragraph("Seen", BOX, " by all."),
        f"<w:tbl><w:tr>{cells}</w:tr>{struck}<w:tr>{full}</w:tr></w:tbl>",
        paragraph("<m:oMath><m:r><m:t>E=mc2</m:t></m:r></m:oMath>"),
    ]
    assert text_of(tmp_path, *body).split("\n\n") == [
        "In a control.",
        "Made a choice.",
        "A link.",
        "On May 3 it came.",
        "Seen by all.",
        "On a sign.",
        "left\nright",
        "One.",
        "Two.",
        "inner",
        "E=mc2",
    ]


def test_signs_breaks_and_drop_caps_are_characters(tmp_path: Path) -> None:
    frame = '<w:framePr w:dropCap="drop"/>'
    over = f"<w:rt>{run('kana')}</w:rt><w:rubyBase>{run('漢字')}</w:rubyBase>"
    ruby = f"<w:r><w:ruby>{over}</w:ruby></w:r>"
    body = [
        paragraph("O", properties=frame),
        paragraph("nce upon a time."),
        paragraph("so", "<w:r><w:softHyphen/></w:r>", "ft, well", "<w:r><w:noBreakHyphen/></w:r>"),
        paragraph("One line", "<w:r><w:br/></w:r>", "and", "<w:r><w:tab/></w:r>", "another."),
        paragraph('<w:r><w:sym w:font="Wingdings" w:char="F096"/></w:r>'),
        paragraph("caf", '<w:r><w:sym w:font="Arial" w:char="00E9"/></w:r>'),
        paragraph(ruby, "だ。"),
    ]
    assert text_of(tmp_path, *body).split("\n\n") == [
        "Once upon a time.",
        "soft, well-",
        "One line\nand another.",
        "* * *",
        "café",
        "漢字だ。",
    ]


def test_what_stands_beside_the_text_is_left_out_and_counted(tmp_path: Path) -> None:
    contents = paragraph("Entry", properties='<w:pStyle w:val="Verzeichnis1"/>')
    placeholder = (
        f"<w:sdt><w:sdtPr><w:showingPlcHdr/></w:sdtPr><w:sdtContent>{run('Click here')}"
        "</w:sdtContent></w:sdt>"
    )
    body = [
        heading("The Harbour", "Titel"),
        contents,
        contents,
        paragraph("It came.", '<w:r><w:footnoteReference w:id="2"/></w:r>'),
        paragraph("Seen", run(" secretly", "<w:vanish/>"), ".", placeholder),
        paragraph("Page ", word_field("PAGE", run("12"))),
    ]
    asides = {
        "footnotes": paragraph("A note."),
        "endnotes": paragraph("At the end."),
        "comments": paragraph("Rewrite?"),
        "header": paragraph("A. Writer"),
    }
    book = read_manuscript(word(tmp_path / "a.docx", *body, asides=asides))
    assert book.chapters[0].text == "It came.\n\nSeen.\n\nPage"
    assert book.left_out == {
        "footnotes and endnotes": len("Anote.Attheend."),
        "comments": len("Rewrite?"),
        "page headers and footers": len("A.Writer"),
        "front matter": len("TheHarbour"),
        "table of contents": 2 * len("Entry"),
        "hidden text": len("secretly"),
        "placeholders of forms": len("Clickhere"),
        "page numbers": 2,
    }
    kept = sum(len("".join(chapter.text.split())) for chapter in book.chapters)
    assert book.characters == kept + book.left_out.total()


def test_a_list_of_contents_made_by_a_field_over_several_paragraphs_goes(tmp_path: Path) -> None:
    begin, end = word_field("TOC \\o", "|").split("|")
    body = [paragraph(begin, "One 1"), paragraph("Two 2"), paragraph(end), paragraph("It came.")]
    assert text_of(tmp_path, *body) == "It came."


@pytest.mark.parametrize("main", [WORD, STRICT])
def test_headings_are_told_by_style_level_and_name(tmp_path: Path, main: str) -> None:
    level = '<w:outlineLvl w:val="0"/>'
    body = [heading("Eins"), paragraph("a."), heading("Zwei", "Kopf"), paragraph("b.")]
    body += [paragraph("Drei", properties=level), paragraph("c.")]
    body += [heading("", "Gezaehlt"), paragraph("d.")]
    book = read_manuscript(word(tmp_path / "a.docx", *body, main=main))
    assert [(chapter.title, chapter.text) for chapter in book.chapters] == [
        ("Eins", "a."),
        ("Zwei", "b."),
        ("Drei", "c."),
        (None, "d."),
    ]


def test_lines_of_verse_that_are_a_paragraph_each_are_stanzas(tmp_path: Path) -> None:
    lines = ["The bell went out across the bay", "and no one came to call it in,", "", "the tide"]
    lines += ["went on the other way", "", "and left the evening", "worn and thin"]
    text = text_of(tmp_path, *(paragraph(*[line] * bool(line)) for line in lines))
    assert text == "\n".join(lines)


def old_word_file(words: str) -> bytes:
    return b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600) + words.encode("utf-16-le")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (old_word_file("EncryptedPackage"), "is protected by a password"),
        (old_word_file("WordDocument"), r"is a Word file of before 2007 \(\.doc\)"),
        (b"{\\rtf1 It came.}", r"is a \.rtf file by its content"),
        (b"\xef\xbb\xbf<!DOCTYPE html><p>It came.", r"is a \.html file by its content"),
    ],
)
def test_files_of_other_kinds_are_named(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.docx").write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_manuscript(tmp_path / "a.docx")


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("<a>" + " " * 30_000_000 + "</a>", "unpacks to 30 MB, which no book does"),
        ("<w:document><w:body>", "is no XML"),
        (
            "<!DOCTYPE x [<!ENTITY a0 'ha'>"
            + "".join(f"<!ENTITY a{i} '{f'&a{i - 1};' * 10}'>" for i in range(1, 10))
            + "]><document><body><p><r><t>&a9;</t></r></p></body></document>",
            "is not a whole .docx file|holds no text",
        ),
    ],
)
def test_bombs_and_cut_files_are_one_line(tmp_path: Path, document: str, said: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.docx", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", document)
    with pytest.raises(InputError, match=said):
        read_manuscript(tmp_path / "a.docx")


WORDS = st.text(st.sampled_from("abcdeé漢 "), min_size=1, max_size=8)
PIECES = st.recursive(
    st.one_of(
        WORDS.map(run),
        WORDS.map(deleted),
        WORDS.map(lambda text: run(text, "<w:vanish/>")),
        WORDS.map(lambda text: word_field("DATE", run(text))),
        WORDS.map(lambda text: word_field("PAGE", run(text))),
        st.just("<w:r><w:tab/><w:br/></w:r>"),
        st.just(BOX),
    ),
    lambda inner: st.tuples(
        st.sampled_from(["ins", "moveTo", "hyperlink", "smartTag", "sdt", "moveFrom", "bdo"]),
        st.lists(inner, max_size=3),
    ).map(lambda made: f"<w:{made[0]}>{''.join(made[1])}</w:{made[0]}>"),
    max_leaves=6,
)
BLOCKS = st.recursive(
    st.tuples(st.lists(PIECES, max_size=4), st.sampled_from(["", GONE])).map(
        lambda made: paragraph(*made[0], properties=made[1])
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(
            lambda made: f"<w:tbl><w:tr><w:tc>{''.join(made)}</w:tc></w:tr></w:tbl>"
        ),
        st.lists(inner, max_size=3).map(
            lambda made: f"<w:sdt><w:sdtContent>{''.join(made)}</w:sdtContent></w:sdt>"
        ),
    ),
    max_leaves=6,
)


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(BLOCKS, max_size=4))
def test_no_letter_of_a_word_file_is_lost(tmp_path: Path, body: list[str]) -> None:
    book = read_manuscript(word(tmp_path / "a.docx", *body))
    kept = sum(len("".join(chapter.text.split())) for chapter in book.chapters)
    assert book.characters == kept + book.left_out.total()
