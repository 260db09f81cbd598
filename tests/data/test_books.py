from __future__ import annotations

import random
import re
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from creativewritinggpt.data.document import characters
from creativewritinggpt.data.readers.books import read_book, separate
from creativewritinggpt.data.readers.layout import blocks, strip_emphasis, unwrap, wrap_width
from creativewritinggpt.data.readers.manuscripts import parts, read_markdown

SAID = (
    "the harbour lay still under a lid of cloud and nobody in town would say whose boat had come "
    "back without its crew because the answer was known to every one of them already"
)
VOCABULARY = SAID.split()


def prose(seed: int, sentences: int = 12) -> str:
    """A paragraph of made-up sentences."""
    source = random.Random(seed)
    return " ".join(
        " ".join(source.choices(VOCABULARY, k=source.randint(6, 18))).capitalize() + "."
        for _ in range(sentences)
    )


def body(seed: int, paragraphs: int = 4) -> list[str]:
    return [prose(100 * seed + i) for i in range(paragraphs)]


def wrapped(paragraph: str, width: int = 72) -> str:
    return textwrap.fill(paragraph, width)


def novel(headings: list[str], *, before: str = "", after: str = "", hard: bool = True) -> str:
    parts = [before] if before else []
    for number, heading in enumerate(headings):
        paragraphs = [wrapped(p) if hard else p for p in body(number)]
        parts.append(f"{heading}\n\n\n" + "\n\n".join(paragraphs))
    return "\n\n\n".join(parts) + (f"\n\n\n{after}\n" if after else "\n")


@pytest.mark.parametrize(
    "headings",
    [
        ["CHAPTER I", "CHAPTER II", "CHAPTER III"],
        ["CHAPTER I.\nDOWN THE HARBOUR", "CHAPTER II.\nTHE POOL", "CHAPTER III.\nA LONG TALE"],
        ["Chapter 1. The Boat", "Chapter 2. The Crew", "Chapter 3. The Town"],
        ["Chapter One: The Boat", "Chapter Two: The Crew", "Chapter Twenty-Three"],
        ["Chapter the First", "Chapter the Second", "Chapter the Last"],
        ["I.\n\nTHE BOAT COMES IN.", "II.\n\nTHE CREW.", "III.\n\nNOBODY SAYS."],
        ["I", "II", "III"],
        ["1", "2", "3"],
        ["1. The Boat", "2. The Crew", "3. The Town"],
        ["Prologue", "Chapter 1", "Epilogue"],
        ["LETTER I", "LETTER II", "LETTER III"],
        ["STAVE ONE", "STAVE TWO", "STAVE THREE"],
        ["# The Boat", "# The Crew", "# The Town"],
        ["THE BOAT COMES IN", "THE CREW", "NOBODY SAYS"],
        ["PART ONE", "PART TWO", "PART THREE"],
    ],
)
@pytest.mark.parametrize("hard", [True, False])
def test_chapters_are_found_whatever_the_style(headings: list[str], hard: bool) -> None:
    book = read_book(novel(headings, hard=hard))
    assert len(book.chapters) == 3
    assert book.wrapped is hard
    for number, chapter in enumerate(book.chapters):
        assert chapter.text.split("\n\n") == body(number)
        words = re.findall(r"\w+", headings[number])
        assert re.findall(r"\w+", chapter.title or "") == words


def test_books_and_parts_lend_their_titles_to_their_chapters() -> None:
    text = novel(
        [
            "BOOK ONE\n\nTHE COMING OF THE BOAT\n\n\nI.\n\nTHE EVE.",
            "II.\n\nTHE LANDING.",
            "BOOK TWO\n\nTHE TOWN\n\n\nI.\n\nUNDER FOOT.",
        ]
    )
    assert [chapter.title for chapter in read_book(text).chapters] == [
        "BOOK ONE. THE COMING OF THE BOAT, I. THE EVE",
        "BOOK ONE. THE COMING OF THE BOAT, II. THE LANDING",
        "BOOK TWO. THE TOWN, I. UNDER FOOT",
    ]


@pytest.mark.parametrize("style", ["dense", "spaced"])
def test_title_page_and_contents_are_told_apart_and_counted(style: str) -> None:
    entries = ["CHAPTER I. The Boat", "CHAPTER II. The Crew", "CHAPTER III. The Town"]
    listed = ("\n" if style == "dense" else "\n\n").join(entries)
    front = f"THE HARBOUR\n\nby A. Writer\n\nTo my mother\n\nCONTENTS\n\n{listed}"
    book = read_book(novel(entries, before=front))
    assert [chapter.title for chapter in book.chapters] == entries
    assert book.chapters[0].text.split("\n\n") == body(0)
    assert book.left_out == {"front matter": characters(front)}


def test_the_licence_of_project_gutenberg_and_the_back_matter_go() -> None:
    before = (
        "The Project Gutenberg eBook of The Harbour\n\nThis eBook is for the use of anyone.\n\n"
        "*** START OF THE PROJECT GUTENBERG EBOOK THE HARBOUR ***\n\n\nProduced by Some Body\n\n"
        "THE HARBOUR"
    )
    after = (
        "THE END\n\n\nTranscriber's Note\n\nSpelling was kept.\n\n"
        "*** END OF THE PROJECT GUTENBERG EBOOK THE HARBOUR ***\n\nLicence text here."
    )
    book = read_book(novel(["CHAPTER I", "CHAPTER II"], before=before, after=after))
    assert [chapter.text.split("\n\n") for chapter in book.chapters] == [body(0), body(1)]
    assert set(book.left_out) == {"licence and notices", "front matter", "back matter"}
    assert sum(book.left_out.values()) == characters(before) + characters(after)


def test_prose_before_the_first_heading_is_kept() -> None:
    opening = "\n\n".join(wrapped(p) for p in body(50, 6))
    book = read_book(novel(["CHAPTER I", "CHAPTER II"], before=opening))
    assert [chapter.title for chapter in book.chapters] == [None, "CHAPTER I", "CHAPTER II"]
    assert book.chapters[0].text.split("\n\n") == body(50, 6)


def test_a_text_without_chapters_is_one() -> None:
    text = "\n\n".join(wrapped(p) for p in body(1, 8))
    book = read_book(f"THE BOAT\n\nBy A. Writer\n\n\n{text}")
    assert len(book.chapters) == 1 and book.chapters[0].text.split("\n\n") == body(1, 8)
    assert book.chapters[0].title == "THE BOAT"


@pytest.mark.parametrize("stray", ["I", "HELP!", "7", "Part one of the plan had failed."])
def test_a_stray_line_is_no_chapter(stray: str) -> None:
    text = "\n\n".join([*body(1), stray, *body(2)])
    book = read_book(text)
    assert len(book.chapters) == 1 and stray in book.chapters[0].text


def test_page_numbers_go_and_the_sentence_is_joined() -> None:
    lines = wrapped(" ".join(body(3, 40))).split("\n")
    pages = ["\n".join(lines[i : i + 20]) for i in range(0, len(lines), 20)]
    text = "\n\n".join(f"{page}\n\n- {number} -" for number, page in enumerate(pages, 1))
    book = read_book(text)
    assert book.left_out["page numbers"] == sum(2 + len(str(n + 1)) for n in range(len(pages)))
    assert not re.search(r"- \d+ -", book.chapters[0].text)
    assert book.chapters[0].text.replace("\n\n", " ") == " ".join(body(3, 40))


def test_emphasis_and_illustrations_go_and_names_with_underscores_stay() -> None:
    assert strip_emphasis("an _Anatomy of\nit_, _so_ it _is_.") == "an Anatomy of\nit, so it is."
    assert strip_emphasis("snake_case_name and _") == "snake_case_name and _"
    text = "One two.\n\n[Illustration: A boat\nat sea]\n\nThree [Illustration] four."
    assert read_book(text).chapters[0].text == "One two.\n\nThree four."


def test_verse_and_scene_breaks_stay() -> None:
    verse = "The boat came home\nwithout a crew,\nthe harbour knew,\nand nobody spoke."
    quoted = "    O harbour, O harbour,\n      whose boat is this?\n    O nobody's, nobody's boat."
    text = "\n\n".join(
        [*map(wrapped, body(1)), verse, "* * * * *", quoted, "-----", *map(wrapped, body(2))]
    )
    kept = read_book(text).chapters[0].text
    assert verse in kept and kept.count("\n\n* * *\n\n") == 2
    assert "O harbour, O harbour,\n  whose boat is this?\nO nobody's, nobody's boat." in kept
    assert kept.startswith(body(1)[0]) and kept.endswith(body(2)[-1])


def test_hyphens_at_the_end_of_a_line_are_kept_and_joined() -> None:
    block = blocks("carry--dignified and well-\nknown, one-\nand two-legged, dark—\nand more")[0]
    assert (
        unwrap(block, 26) == "carry--dignified and well-known, one- and two-legged, dark—and more"
    )


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(50, 90))
def test_wrapped_paragraphs_come_back_whole(seed: int, width: int) -> None:
    paragraphs = [prose(seed + i, sentences=6) for i in range(6)]
    text = blocks("\n\n".join(wrapped(p, width) for p in paragraphs))
    found = wrap_width(text)
    assert found is not None and abs(found - width) <= 3
    assert [unwrap(block, found) for block in text] == paragraphs


@settings(deadline=None, max_examples=100)
@given(st.text(st.sampled_from("abc ABC.\n#*_-1I"), max_size=200))
def test_no_word_of_an_ordinary_text_is_lost(text: str) -> None:
    # With prose around it nothing here is front or back matter; titles hold the headings.
    framed = f"{prose(1)}\n\n{text}\n\n{prose(2)}"
    book = read_book(framed)
    kept = " ".join(f"{chapter.title or ''} {chapter.text}" for chapter in book.chapters)
    counted = re.findall(r"[A-Za-z]+", framed)
    assert sorted(re.findall(r"[A-Za-z]+", kept)) == sorted(counted)


def test_texts_set_apart_by_the_end_of_text_mark_are_separate() -> None:
    assert separate("one<|endoftext|>\ntwo<|endoftext|>") == ["one", "\ntwo"]
    assert separate("a | b") == ["a | b"]


def test_markdown_is_stripped_of_its_marks() -> None:
    text = (
        "He *said* **so**, in a [letter](http://x.y) with `code` and 2 * 3 * 4.\n"
        "Soft break; hard  \nbreak.\n\n> quoted\n> words\n\n- one\n- two\n\n***\n\n"
        "![picture](a.png)\n\n<!-- hidden -->\n\nEnd \\*star\\*, a&amp;b."
    )
    stripped = "\n\n".join(part.text for part in parts(text))
    assert stripped == (
        "He said so, in a letter with code and 2 * 3 * 4. Soft break; hard\nbreak.\n\n"
        "quoted words\n\none\n\ntwo\n\n* * *\n\nEnd *star*, a&b."
    )


def test_markdown_chapters_are_the_headings_that_come_more_than_once() -> None:
    text = (
        "---\ntitle: The Harbour\nauthor: A. Writer\n---\n# The Harbour\n\n## The Boat\n\nIt came."
        "\n\n### Later\n\nIt went.\n\n***\n\n## The Crew\n\nNobody.\n\n## Index\n\nBoat."
    )
    book = read_markdown(text)
    assert [(chapter.title, chapter.text) for chapter in book.chapters] == [
        ("The Harbour, The Boat", "It came.\n\nLater\n\nIt went."),
        ("The Harbour, The Crew", "Nobody."),
    ]
    assert set(book.left_out) == {"front matter", "front and back matter"}


SMALL_PRINT = """***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***
Why is this "Small Print!" statement here? You know: lawyers.

*BEFORE!* YOU USE OR READ THIS ETEXT
By using or reading any part of this PROJECT GUTENBERG-tm etext you agree.

LIMITED WARRANTY; DISCLAIMER OF DAMAGES
But for the "Right of Replacement or Refund" the Project disclaims all liability.

INDEMNITY
You will indemnify the Project and hold it harmless.

*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*"""
ETEXT = f"""**The Project Gutenberg Etext of The Harbour, by A. Writer**

Copyright laws are changing all over the world, be sure to check
the laws for your country before posting these files!!

**Welcome To The World of Free Plain Vanilla Electronic Texts**

October, 1994  [Etext #176]

{SMALL_PRINT}"""
NOTICE = """<<THIS ELECTRONIC VERSION OF THE HARBOUR IS COPYRIGHT 1990-1993 BY
A LIBRARY, INC., AND IS PROVIDED BY PROJECT GUTENBERG WITH PERMISSION.>>

"""
NEW = """Project Gutenberg's The Harbour, by A. Writer

This eBook is for the use of anyone anywhere at no cost.

Title: The Harbour

*** START OF THIS PROJECT GUTENBERG EBOOK THE HARBOUR ***


E-text prepared by Some Body

Anmerkungen zur Transkription: nichts."""
CHAPTERS = novel(["CHAPTER I", "CHAPTER II"])


@pytest.mark.parametrize(
    "text",
    [
        f"{ETEXT}\n\n\n\nTHE HARBOUR\n\n\n{CHAPTERS}\n\nEnd of this Etext of The Harbour\n",
        f"{ETEXT}\n{CHAPTERS}\n\nEnd of The Project Gutenberg Etext of The Harbour, by A. Writer",
        f"{ETEXT}\n\n\n{CHAPTERS.replace('CHAPTER II', NOTICE + 'CHAPTER II')}{NOTICE}\n",
        f"{NEW}\n\n\n{CHAPTERS}\n\n*** END OF THIS PROJECT GUTENBERG EBOOK THE HARBOUR ***\n\n"
        f"This file should be named harbr.txt\n\n{SMALL_PRINT}\n",
    ],
)
def test_the_licences_of_every_decade_go(text: str) -> None:
    book = read_book(text)
    assert [chapter.text.split("\n\n") for chapter in book.chapters] == [body(0), body(1)]
    assert set(book.left_out) <= {"licence and notices", "front matter"}
    kept = sum(characters(f"{chapter.title}{chapter.text}") for chapter in book.chapters)
    assert book.characters == kept + book.left_out.total()


def test_several_etexts_in_a_file_lose_each_their_licence() -> None:
    one = f"{ETEXT}\n\n\n{CHAPTERS}\n\nEnd of this Etext of The Harbour\n\n\n"
    book = read_book(one + one.replace("CHAPTER", "STAVE"))
    assert [chapter.title for chapter in book.chapters] == [
        "CHAPTER I",
        "CHAPTER II",
        "STAVE I",
        "STAVE II",
    ]
    assert "etext" not in "".join(chapter.text for chapter in book.chapters).lower()


def test_an_end_mark_amid_the_text_costs_its_own_line_only() -> None:
    text = CHAPTERS.replace("CHAPTER II", "End of this Etext of Part One\n\n\nCHAPTER II")
    book = read_book(f"{ETEXT}\n\n\n{text}")
    assert [chapter.text.split("\n\n") for chapter in book.chapters] == [body(0), body(1)]


def verse(seed: int, low: int, high: int, *, capitals: bool) -> str:
    """Stanzas of lines of so many characters, which end with a sign."""
    source = random.Random(seed)
    stanzas = []
    for _ in range(source.randint(3, 8)):
        lines = []
        for _ in range(source.randint(2, 5)):
            line, length = "", source.randint(low, high)
            while len(line) < length - 6:
                line = f"{line} {source.choice(VOCABULARY)}".strip()
            line += source.choice(",;.")
            lines.append(line.capitalize() if capitals else line)
        stanzas.append("\n".join(lines))
    return "\n\n".join(stanzas)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.sampled_from([(75, 88), (60, 72), (40, 80)]), st.booleans())
def test_verse_with_long_lines_stays_verse(
    seed: int, lengths: tuple[int, int], capitals: bool
) -> None:
    poem = verse(seed, *lengths, capitals=capitals)
    assert [chapter.text for chapter in read_book(poem).chapters] == [poem]


def test_couplets_among_wrapped_prose_stay_verse_and_prose_is_joined() -> None:
    couplets = "\n\n".join(
        f"      Nobody knew whose boat had come, said {VOCABULARY[i]},\n"
        f"      And nobody went to the harbour to see, said {VOCABULARY[i + 9]};"
        for i in range(4)
    )
    text = "\n\n".join([*map(wrapped, body(1)), couplets, *map(wrapped, body(2))])
    kept = read_book(text).chapters[0].text
    assert textwrap.dedent(couplets) in kept
    assert kept.startswith(body(1)[0]) and kept.endswith(body(2)[-1])


def test_wrapped_lines_of_scripts_without_spaces_are_joined_without_one() -> None:
    story = "港の鐘が二度鳴ったが、誰も顔を上げなかった。彼女は箱を数え直した。" * 5
    lines = "\n".join(story[i : i + 34] for i in range(0, len(story), 34))
    book = read_book("\n\n".join([lines] * 4))
    assert book.wrapped and book.chapters[0].text == "\n\n".join([story] * 4)


def test_short_pieces_before_a_heading_are_kept_where_they_are_much_of_the_text() -> None:
    poem = "\n".join(f"the lamp burned low and nobody came, {i}" for i in range(30))
    text = f"{poem}\n\n\n{novel(['CHAPTER I', 'CHAPTER II'], hard=False)}"
    book = read_book(text)
    assert poem in "\n\n".join(chapter.text for chapter in book.chapters) and not book.left_out


def test_verse_in_markdown_keeps_its_lines_and_numbers_of_lists_stay() -> None:
    poem = "the bell went out across the bay\nand no one came to call it in,\nthe tide"
    assert read_markdown(f"# Bell\n\n{poem}\n\n{poem}\n\n{poem}").chapters[0].text == (
        f"{poem}\n\n{poem}\n\n{poem}"
    )
    listed = parts("1. one\n2. two\n\n- three")
    assert [part.text for part in listed] == ["1. one", "2. two", "three"]
    assert read_markdown("a<br>b").chapters[0].text == "a\nb"


def test_a_paragraph_that_is_dense_with_marks_is_taken_as_it_stands() -> None:
    [words] = parts("*a* " * 400)
    assert words.text == " ".join(["a"] * 400)
    # The parser takes microseconds for each, twenty times as many for a bracket.
    [marks] = parts("*a* " * 600)
    assert marks.text == " ".join(["*a*"] * 600)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "before",
    [
        "{{{{\n" * 100_000,
        "THE SMALL PRINT! THE SMALL PRINT!\n" * 100_000,
        "!" + " " * 400_000 + "x",
    ],
    ids=["signs", "small print", "spaces"],
)
def test_long_runs_of_signs_or_small_print_are_no_square_of_work(before: str) -> None:
    book = read_markdown(before + "\n\nThe harbour lay still.\n")
    assert "The harbour lay still." in "".join(chapter.text for chapter in book.chapters)
