"""Stories brought in from elsewhere, and manuscripts opened with a second library."""

from __future__ import annotations

import html
import json
import re
import zipfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from creativewritinggpt.errors import InputError
from creativewritinggpt.story import exchange
from creativewritinggpt.story.exchange import export_story, import_story, paragraphs
from creativewritinggpt.story.tree import Story

AWKWARD = "“Who’s there?” <b>she</b> & *he* 🎉 e\u0301 \x1b[31m 1. first # not a heading"


@pytest.fixture
def story() -> Story:
    story = Story()
    story.write("Before all chapters.")
    story.set("title", title="The <Night> Ferry")
    for number in (1, 2):
        story.chapter(f"Part {number} & more")
        story.write(f"- A list?\n\n{AWKWARD}\n\nThe end of {number}.", by="model", seed=1)
    return story


def test_text_export_is_the_text(story: Story, tmp_path: Path) -> None:
    export_story(story, tmp_path / "a.txt")
    text = (tmp_path / "a.txt").read_text("utf-8")
    assert text == story.text.replace("\x1b", "").strip() + "\n"


def test_json_export_is_the_story(story: Story, tmp_path: Path) -> None:
    export_story(story, tmp_path / "a.json")
    again = import_story(tmp_path / "a.json").story
    assert (again.passages, again.history) == (story.passages, story.history)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = [("", "")]

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.append((tag, ""))

    def handle_data(self, data: str) -> None:
        tag, text = self.found[-1]
        self.found[-1] = (tag, text + data)


def _blocks(page: str) -> list[tuple[str, str]]:
    reader = _Reader()
    reader.feed(page)
    return [(tag, text.strip()) for tag, text in reader.found if tag in ("h1", "h2", "p")]


def _wanted(story: Story) -> list[tuple[str, str]]:
    found = [("h1", exchange.title_of(story))]
    for title, text in story.chapters():
        found += [("h2", title)] if title else []
        found += [("p", line) for line in paragraphs(text)]
    return found


def test_html_has_every_paragraph_as_text(story: Story, tmp_path: Path) -> None:
    export_story(story, tmp_path / "a.html")
    assert _blocks((tmp_path / "a.html").read_text("utf-8")) == _wanted(story)


def test_markdown_shows_exactly_the_text(story: Story, tmp_path: Path) -> None:
    export_story(story, tmp_path / "a.md")
    page = MarkdownIt().render((tmp_path / "a.md").read_text("utf-8"))
    assert _blocks(page) == _wanted(story)


LINES = st.text(st.sampled_from("a 1.)#+->*_`[]()!<&;|~\\=:/\"'"), min_size=1, max_size=24)


@settings(max_examples=300, deadline=None)
@given(lines=st.lists(LINES.filter(str.strip), min_size=1, max_size=3))
def test_markdown_shows_exactly_any_text(lines: list[str]) -> None:
    story = Story()
    story.write("\n".join(lines))
    page = MarkdownIt().render(exchange.markdown(story))
    shown = re.findall(r"<p>(.*?)</p>", page, flags=re.DOTALL)
    # Runs of blanks are one blank in a page.
    assert [" ".join(html.unescape(text).split()) for text in shown] == [
        " ".join(line.split()) for line in lines
    ]


def test_markdown_comes_back_as_the_same_chapters(story: Story, tmp_path: Path) -> None:
    text = "# The Ferry\n\nBefore.\n\n## One\n\nFirst.\n\nSecond.\n\n## Two\n\nThird.\n"
    (tmp_path / "a.md").write_text(text)
    again = import_story(tmp_path / "a.md").story
    assert again.state.title == "The Ferry"
    assert again.chapters() == [("", "Before."), ("One", "First.\n\nSecond."), ("Two", "Third.")]
    assert again.undo() == []


def test_word_file_opens_with_its_headings(story: Story, tmp_path: Path) -> None:
    docx = pytest.importorskip("docx")
    export_story(story, tmp_path / "a.docx")
    document = docx.Document(str(tmp_path / "a.docx"))
    names = {"Title": "h1", "Heading 1": "h2", "Normal": "p"}
    assert [(names[p.style.name], p.text) for p in document.paragraphs] == _wanted(story)
    assert document.core_properties.title == "The <Night> Ferry"


def test_epub_opens_with_its_chapters(story: Story, tmp_path: Path) -> None:
    epub = pytest.importorskip("ebooklib.epub")
    export_story(story, tmp_path / "a.epub")
    book = epub.read_epub(str(tmp_path / "a.epub"))
    assert book.title == "The <Night> Ferry"
    chapters = [book.get_item_with_id(name) for name, _ in book.spine]
    headings = [_blocks(chapter.get_content().decode())[0] for chapter in chapters]
    assert headings == [("h1", "The <Night> Ferry"), ("h1", "Part 1 & more"),
                        ("h1", "Part 2 & more")]  # fmt: skip
    assert [entry.title for entry in book.toc] == [text for _, text in headings]


def test_epub_keeps_the_rules_of_its_container(story: Story, tmp_path: Path) -> None:
    etree = pytest.importorskip("lxml.etree")
    export_story(story, tmp_path / "a.epub")
    with zipfile.ZipFile(tmp_path / "a.epub") as archive:
        first = archive.infolist()[0]
        assert (first.filename, first.compress_type) == ("mimetype", zipfile.ZIP_STORED)
        assert archive.read("mimetype") == b"application/epub+zip"
        assert first.extra == b""
        names = set(archive.namelist())
        for name in names:
            if name.endswith((".xml", ".xhtml", ".opf", ".ncx")):
                etree.fromstring(archive.read(name))
        package = etree.fromstring(archive.read("EPUB/package.opf"))
    hrefs = {f"EPUB/{item.get('href')}" for item in package.iter("{*}item")}
    assert hrefs == names - {"mimetype", "META-INF/container.xml", "EPUB/package.opf"}
    ids = {item.get("id") for item in package.iter("{*}item")}
    assert {ref.get("idref") for ref in package.iter("{*}itemref")} <= ids


def test_an_empty_story_can_be_exported_in_every_form(tmp_path: Path) -> None:
    for ending in ("txt", "md", "html", "epub", "json"):
        export_story(Story(), tmp_path / f"a.{ending}")
        assert (tmp_path / f"a.{ending}").is_file()
    assert zipfile.is_zipfile(tmp_path / "a.epub") and json.loads((tmp_path / "a.json").read_text())


def test_an_unknown_ending_is_refused_and_names_the_known(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        export_story(Story(), tmp_path / "a.pdf")
    assert ".epub" in str(caught.value.advice)


def test_kobold_stories_bring_text_memory_note_and_lore(tmp_path: Path) -> None:
    record = {
        "gamestarted": True, "prompt": "Once upon a time", "memory": "A tale.",
        "authorsnote": "Be brief.", "anotetemplate": "[Note: <|>]",
        "actions": [" a king", " laughed."],
        "actions_metadata": {},
        "worldinfo": [
            {"key": "king, Ald\ud800ric", "keysecondary": "", "content": "He is old.",
             "comment": "", "folder": None, "selective": False, "constant": False},
            {"key": "", "content": "It always rains.", "constant": True},
        ],
    }  # fmt: skip
    (tmp_path / "kobold.json").write_text(json.dumps(record))
    story = import_story(tmp_path / "kobold.json").story
    assert story.text == "Once upon a time a king laughed."
    assert [passage.by for passage in story.path()] == ["writer", "model", "model"]
    assert (story.state.memory, story.state.note) == ("A tale.", "[Note: Be brief.]")
    assert [lore.keys for lore in story.state.lore] == [("king", "Aldric"), ()]
    assert [lore.always for lore in story.state.lore] == [False, True]


def test_kobold_stories_of_the_second_form_bring_the_chosen_texts(tmp_path: Path) -> None:
    actions = {"0": {"Selected Text": " One."}, "10": {"Selected Text": " Three."},
               "2": {"Selected Text": " Two."}}  # fmt: skip
    record = {"prompt": "Zero.", "actions": {"action_count": 10, "actions": actions},
              "authornote": "Be brief.", "story_name": "The Ferry",
              "worldinfo_v2": {"entries": {"0": {"key": ["sea"], "content": "Salt."}}}}  # fmt: skip
    (tmp_path / "united.json").write_text(json.dumps(record))
    story = import_story(tmp_path / "united.json").story
    assert story.text == "Zero. One. Two. Three."
    assert story.state.lore[0].keys == ("sea",)
    assert (story.state.title, story.state.note) == ("The Ferry", "Be brief.")


def test_turns_of_a_kobold_chat_come_without_their_marks(tmp_path: Path) -> None:
    record = {"prompt": "Once.", "actions": ["\n{{[INPUT]}}\nGo on.\n{{[OUTPUT]}}\n", "It rained."]}
    (tmp_path / "chat.json").write_text(json.dumps(record))
    story = import_story(tmp_path / "chat.json").story
    assert story.text == "Once.\n\nGo on.\n\nIt rained."
    assert [passage.by for passage in story.path()] == ["writer", "writer", "model"]


def test_mikupad_sessions_bring_text_memory_note_and_lore(tmp_path: Path) -> None:
    values = {
        "name": "Ferry",
        "prompt": [{"type": "user", "content": "The ferry"}, {"content": " was"},
                   {"content": " late."}, {"type": "user", "content": " She waited."}],
        "memoryTokens": {"prefix": "[", "text": "A tale.", "suffix": "]", "tokens": 4},
        "authorNoteTokens": {"prefix": "", "text": "", "suffix": ""},
        "worldInfo": {"entries": [
            {"displayName": "Sea", "text": "Salt.", "keys": ["sea", "harbour"], "search": ""},
        ]},
        "temperature": 0.7,
    }  # fmt: skip
    record = {key: json.dumps(value) for key, value in values.items()}
    (tmp_path / "m.json").write_text(json.dumps(record))
    story = import_story(tmp_path / "m.json").story
    assert [(p.by, p.text) for p in story.path()] == [
        ("writer", "The ferry"), ("model", " was late."), ("writer", " She waited."),
    ]  # fmt: skip
    assert (story.state.title, story.state.memory, story.state.note) == ("Ferry", "[A tale.]", "")
    assert story.state.lore[0].keys == ("sea", "harbour")


def test_plain_text_comes_without_what_a_terminal_would_obey(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfOne\r\ntwo\x1b]52;c;eHg=\x07 three\n")
    assert import_story(tmp_path / "a.txt").story.text == "One\ntwo]52;c;eHg= three"


BROKEN = ["{", "[]", "{}", '{"prompt": 1}', '{"prompt": "x", "actions": 3}', '{"prompt": "[1]"}']


@pytest.mark.parametrize("content", [*BROKEN, "[" * 100_000])
def test_what_is_no_story_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError) as caught:
        import_story(tmp_path / "a.json")
    assert "\n" not in caught.value.message
