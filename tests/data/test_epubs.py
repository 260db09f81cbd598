from __future__ import annotations

import textwrap
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from manuscript_files import epub

from creativewritinggpt.data.readers.books import Book
from creativewritinggpt.data.readers.manuscripts import read_manuscript
from creativewritinggpt.errors import InputError

pytest.importorskip("lxml")

LONG = "Nobody in the town would say whose boat it was, and nobody went down to look at it. "


def read(path: Path, pages: dict[str, str | bytes], **options: str) -> Book:
    return read_manuscript(epub(path / "a.epub", pages, **options))  # type: ignore[arg-type]


def paragraphs(path: Path, body: str) -> list[str]:
    return "\n\n".join(chapter.text for chapter in read(path, {"a.xhtml": body}).chapters).split(
        "\n\n"
    )


def test_raised_and_lowered_letters_stay_and_marks_of_notes_go(tmp_path: Path) -> None:
    body = (
        "<p>The 21<sup>st</sup>, M<sup>me</sup>, H<sub>2</sub>O, mc<sup>2</sup>."
        '<sup><a href="#n">1</a></sup> So<a href="#n"><sup>a</sup></a> it'
        '<a epub:type="noteref" href="n.xhtml">*</a> was<a href="n.xhtml#m">[3]</a>, says '
        '<a href="#more">a link</a>.</p>'
        '<aside epub:type="footnote"><p>The note.</p></aside>'
    )
    book = read(tmp_path, {"a.xhtml": body})
    assert book.chapters[0].text == "The 21st, Mme, H2O, mc2. So it was, says a link."
    assert book.left_out == {"marks of notes": 6, "notes": 8}


def test_verse_keeps_its_lines_however_it_is_marked(tmp_path: Path) -> None:
    body = (
        "<pre>The bell went out\n   across the bay\n\nand no one came</pre>"
        "<p>one line<br/>\n\n  and another<br/>&nbsp;&nbsp;indented</p>"
        '<div class="poem"><div class="stanza"><div class="line">to call</div>'
        '<div class="line">it in</div></div><div class="stanza"><p>the tide</p><p>went on</p></div>'
        '</div><p class="verse">a<br/>b</p>'
    )
    assert paragraphs(tmp_path, body) == [
        "The bell went out\n   across the bay",
        "and no one came",
        "one line\nand another\n  indented",
        "to call\nit in",
        "the tide\nwent on",
        "a\nb",
    ]
    wrapped = textwrap.fill(f"{LONG}He went home. {LONG}It was late. {LONG}", 60)
    assert paragraphs(tmp_path, f"<pre>{wrapped}</pre>") == [wrapped.replace("\n", " ")]


def test_readings_go_and_drop_caps_stay(tmp_path: Path) -> None:
    body = (
        "<p><ruby>漢<rt>かん</rt>字<rp>(</rp><rt>じ</rt><rp>)</rp></ruby>だ。\n次の行。</p>"
        '<p><span class="dropcap">O</span>nce.</p><p><img src="t.png" alt="T"/>hen.</p>'
        '<div class="drop">W</div><p>hen.</p><p><img src="m.png" alt="A map"/></p>'
    )
    book = read(tmp_path, {"a.xhtml": body})
    assert book.chapters[0].text == "漢字だ。次の行。\n\nOnce.\n\nThen.\n\nWhen."
    assert book.left_out == {"readings of characters": 5} and book.dropped == {"pictures": 1}


def test_text_in_no_paragraph_is_text(tmp_path: Path) -> None:
    body = "Loose <b>words</b><p>one</p>between<div>two<p>three</p>four</div><hr/><p>***</p>five"
    expected = ["Loose words", "one", "between", "two", "three", "four", "* * *", "five"]
    assert paragraphs(tmp_path, body) == expected


@pytest.mark.parametrize("headed", [True, False])
def test_short_poems_stay_each_a_chapter(tmp_path: Path, headed: bool) -> None:
    pages: dict[str, str | bytes] = {}
    for number in range(30):
        title = f"<h2>{number}. A Lamp</h2>" if headed else ""
        pages[f"p{number}.xhtml"] = f"{title}<p>A clock without hands<br/>rain {number}</p>"
    book = read(tmp_path, pages)
    assert [chapter.text for chapter in book.chapters] == [
        f"A clock without hands\nrain {number}" for number in range(30)
    ]
    assert not book.left_out


def test_books_without_spaces_stay_whole(tmp_path: Path) -> None:
    story = "港の鐘が二度鳴ったが、誰も顔を上げなかった。" * 8
    headings = ["第一章　港", "第二章　鐘", "第三章　霧"]
    for form in ("<h1>{}</h1>", "<p>{}</p>"):
        book = read(
            tmp_path,
            {f"{i}.xhtml": form.format(h) + f"<p>{story}</p>" for i, h in enumerate(headings)},
        )
        assert [chapter.text for chapter in book.chapters] == [story] * 3
        assert [chapter.title for chapter in book.chapters] == [
            h.replace("\u3000", " ") for h in headings
        ]
    plain = read(tmp_path, {f"{i}.xhtml": f"<p>{story}</p>" for i in range(3)})
    assert [chapter.text for chapter in plain.chapters] == [story] * 3


def point(label: str, target: str) -> str:
    text = f"<navLabel><text>{label}</text></navLabel>"
    return f'<navPoint>{text}<content src="{target}"/></navPoint>'


def test_one_page_with_many_chapters_is_cut_at_the_anchors_of_the_contents(tmp_path: Path) -> None:
    body = f"<p>Before. {LONG}</p>" + "".join(
        f'<p id="c{i}" class="ct">{label}</p><p>Chapter {i}. {LONG}</p>'
        for i, label in enumerate(["The Boat", "The Crew"])
    )
    ncx = point("The Boat", "all.xhtml#c0") + point("The Crew", "all.xhtml#c1")
    nav = (
        '<nav epub:type="toc"><ol><li><a href="all.xhtml#c0">The Boat</a></li>'
        '<li><a href="all.xhtml#c1">The Crew</a></li></ol></nav>'
    )
    for options in ({"ncx": ncx}, {"nav": nav}):
        book = read(tmp_path, {"all.xhtml": body}, **options)
        assert [(chapter.title, chapter.text) for chapter in book.chapters] == [
            (None, f"Before. {LONG}".strip()),
            ("The Boat", f"Chapter 0. {LONG}".strip()),
            ("The Crew", f"Chapter 1. {LONG}".strip()),
        ]


def test_one_chapter_in_several_pages_is_one(tmp_path: Path) -> None:
    pages: dict[str, str | bytes] = {
        "a.xhtml": f"<h2>One</h2><p>a. {LONG}</p>",
        "b.xhtml": f"<p>b. {LONG}</p>",
        "c.xhtml": f"<h2>Two</h2><p>c. {LONG}</p>",
    }
    assert len(read(tmp_path, pages).chapters) == 2


def test_front_matter_and_pages_beside_the_text_go(tmp_path: Path) -> None:
    links = "".join(f'<p><a href="{name}.xhtml">{name}</a></p>' for name in ("one", "two", "end"))
    pages: dict[str, str | bytes] = {
        "cover.xhtml": '<p><img alt="Cover" src="c.jpg"/></p>',
        "tp.xhtml": "<h1>The Harbour</h1><p>by A. Writer</p>",
        "rights.xhtml": "<p>Copyright © 2020 A. Writer. All rights reserved.</p>",
        "list.xhtml": f"<h1>In this book</h1>{links}",
        "one.xhtml": f"<h1>One</h1><p>{LONG * 4}</p>",
        "aside.xhtml": "<p>Map and legend.</p>",
        "two.xhtml": f"<h1>Two</h1><p>{LONG * 4}</p>",
    }
    book = read(tmp_path, pages, beside="aside.xhtml")
    assert [chapter.title for chapter in book.chapters] == ["One", "Two"]
    assert set(book.left_out) >= {"front matter", "pages beside the text"}


AO3 = "<a href='https://archiveofourown.org/works/1'>archiveofourown.org/works/1</a>"


def test_what_the_archive_puts_around_a_story_is_told_apart(tmp_path: Path) -> None:
    def quote(label: str, *texts: str) -> str:
        inside = "".join(f"<p>{text}</p>" for text in texts)
        return f"<p>{label}</p><blockquote class='userstuff'>{inside}</blockquote>"

    preface = (
        f"<p>Posted originally on the Archive of Our Own at {AO3}.</p><dl><dt>Rating:</dt>"
        "<dd>General</dd></dl><h1>The Harbour</h1><div class='byline'>by writer</div>"
        f"{quote('Summary', 'A boat.', 'A town.')}{quote('Notes', 'Thanks.')}"
    )
    pages: dict[str, str | bytes] = {"0.xhtml": preface}
    for number in (1, 2):
        pages[f"{number}.xhtml"] = (
            f"<h2>Chapter {number}</h2>{quote('Chapter Summary', 'More.')}"
            f"{quote('Chapter Notes', 'Hello.')}<div class='userstuff2'><p>It came. {LONG * 3}</p>"
            "<blockquote><p>A letter in the story.</p></blockquote></div>"
            f"{quote('Chapter End Notes', 'Bye.')}"
        )
    pages["3.xhtml"] = (
        f"{quote('End Notes', 'All done.')}<p>Please drop by the Archive and comment!</p>"
    )
    book = read(tmp_path, pages)
    assert [chapter.text for chapter in book.chapters] == [
        f"It came. {LONG * 3}".strip() + "\n\nA letter in the story."
    ] * 2
    assert {"summaries", "author's notes", "author's end notes"} <= set(book.left_out)


def encryption(algorithm: str, page: str) -> dict[str, str]:
    return {
        "META-INF/encryption.xml": (
            '<encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
            '<EncryptedData xmlns="http://www.w3.org/2001/04/xmlenc#">'
            f'<EncryptionMethod Algorithm="{algorithm}"/><CipherData>'
            f'<CipherReference URI="OEBPS/{page}"/></CipherData></EncryptedData></encryption>'
        )
    }


def test_protected_books_are_refused_and_obfuscated_fonts_are_not(tmp_path: Path) -> None:
    pages = {"a.xhtml": f"<p>{LONG}</p>"}
    aes = encryption("http://www.w3.org/2001/04/xmlenc#aes256-cbc", "a.xhtml")
    with pytest.raises(InputError, match=r"is protected against copying \(DRM\)"):
        read_manuscript(epub(tmp_path / "a.epub", pages, files=aes))
    fonts = encryption("http://www.idpf.org/2008/embedding", "f.otf")
    assert read_manuscript(epub(tmp_path / "b.epub", pages, files=fonts)).chapters


def test_pages_in_any_encoding_and_broken_ones_are_read(tmp_path: Path) -> None:
    def raw(encoding: str, word: str) -> bytes:
        text = f'<?xml version="1.0" encoding="{encoding}"?><html><body><p>{word}</p></body></html>'
        return text.encode(encoding if encoding != "us-ascii" else "utf-8")

    pages: dict[str, str | bytes] = {
        "with space.xhtml": "<p>one</p>",
        "latin.xhtml": raw("iso-8859-1", "café"),
        "wide.xhtml": raw("utf-16", "größer"),
        "untrue.xhtml": raw("us-ascii", "déjà"),
        "broken.xhtml": b"<html><body><p>so <b>bold <i>x</b>&nbsp;y & z<p>next",
        "closed.xhtml": '<p><a id="x"/>after <i/>it</p><p/><div/>loose',
        "bomb.xhtml": b"<!DOCTYPE html [<!ENTITY a 'ha'><!ENTITY b '&a;&a;&a;'>]><html><body>"
        b"<p>boom &b; end</p></body></html>",
        "empty.xhtml": b"",
        "deep.xhtml": "<div>" * 3000 + "deep" + "</div>" * 3000,
    }
    book = read(tmp_path, pages)
    assert [chapter.text for chapter in book.chapters] == [
        "one",
        "café",
        "größer",
        "déjà",
        "so bold x y & z\n\nnext",
        "after it\n\nloose",
        "boom &b; end",
    ]
    assert sum(book.dropped.values()) == 2  # the last two


def test_the_licence_of_project_gutenberg_goes_from_pages(tmp_path: Path) -> None:
    pages: dict[str, str | bytes] = {
        "a.xhtml": "<section class='pg-boilerplate pgheader'><p>This ebook is for anyone.</p>"
        f"</section><h2>I</h2><p>{LONG}</p>",
        "b.xhtml": f"<h2>II</h2><p>{LONG}</p><p>*** END OF THE PROJECT GUTENBERG EBOOK X ***</p>"
        "<p>Donations to the Project Gutenberg Literary Archive Foundation.</p>",
    }
    book = read(tmp_path, pages)
    assert [chapter.text for chapter in book.chapters] == [LONG.strip()] * 2
    assert set(book.left_out) == {"licence and notices"}


WORDS = st.text(st.sampled_from("abcdé漢 "), max_size=6)
TAGS = "p p div section blockquote span i sup sub pre ul li table td ruby rt em h3 a"
NODES = st.recursive(
    WORDS,
    lambda inner: st.tuples(
        st.sampled_from(
            TAGS.split()
            + ["p class='stanza'", "div class='poem'", "aside epub:type='footnote'", "p hidden=''"]
            + ["span class='dropcap'", "div class='drop'", "a href='#n'"]
        ),
        st.lists(st.one_of(inner, st.sampled_from(["<br/>", "<hr/>"])), max_size=3),
    ).map(lambda made: f"<{made[0]}>{''.join(made[1])}</{made[0].split()[0]}>"),
    max_leaves=10,
)


def test_a_heading_with_nothing_but_a_break_below_is_counted(tmp_path: Path) -> None:
    book = read(tmp_path, {"a.xhtml": "<h3>One</h3><hr/>"})
    assert not book.chapters and book.left_out == {"headings without a text": 3}


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(NODES, min_size=1, max_size=4))
def test_no_letter_of_a_page_is_lost(tmp_path: Path, nodes: list[str]) -> None:
    book = read(tmp_path, {"a.xhtml": "".join(nodes)})
    text = "".join(f"{chapter.title or ''}{chapter.text}" for chapter in book.chapters)
    kept = len("".join(text.replace("* * *", "").split()))
    # Headings that are joined have a sign between them.
    assert book.characters <= kept + book.left_out.total()
    letters = Counter(filter(str.isalpha, "".join(nodes)))
    assert Counter(filter(str.isalpha, text)) <= letters
