from __future__ import annotations

import csv
import json
import random
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from creativewritinggpt.config.run import Config
from creativewritinggpt.data import sources
from creativewritinggpt.data.corpus import load_corpus, read_documents
from creativewritinggpt.data.document import Document, Reading, SourceReport, characters
from creativewritinggpt.data.sources import (
    openwebtext,
    register_source,
    rocstories,
    wikitext,
    writingprompts,
)
from creativewritinggpt.data.sources.writingprompts import undo_treebank
from creativewritinggpt.data.text import is_explicit
from creativewritinggpt.errors import InputError

MANY = settings(deadline=None, max_examples=200)
PIECES = st.sampled_from(
    [*"aZé .,!?;:'’“”()[]*_>-\n=@\"", " n't", " 's", "``", "''", "<newline>", "word ", "[ WP ]"]
    + ["Edit:", "/r/x", "http://x.y", " @-@ ", " = ", "\n\n", " – ", "Advertisement", "** "]
)
noisy = st.lists(PIECES, max_size=25).map("".join)


def letters(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFC", text) if c.isalnum())


def has_controls(text: str) -> bool:
    return any(unicodedata.category(c) == "Cc" and c != "\n" for c in text)


WORDS = [f"{a}{b}" for a in ("lamp", "sea", "king", "door", "salt", "moon") for b in "abcdefghijk"]


def varied(number: int, length: int = 40) -> str:
    """Words that no other number has in this order."""
    return " ".join(random.Random(number).choices(WORDS, k=length))


STORY = (
    "`` Where is he ? '' she asked . <newline> <newline> `` I do n't know , '' said the captain , "
    "`` and I would n't say ( if I did ) . He 's gone . '' <newline> <newline> -- -- -- - "
    "<newline> <newline> They waited for the tide , as people do who have nothing else to do . "
    "<newline> <newline> EDIT : a word <newline> <newline> More at /r/captains , and thanks !"
)
CLEANED = (
    '"Where is he?" she asked.\n\n"I don\'t know," said the captain, "and I wouldn\'t say '
    "(if I did). He's gone.\"\n\n* * *\n\n"
    "They waited for the tide, as people do who have nothing else to do."
)


def test_a_story_is_prose_again_and_its_notes_are_counted() -> None:
    assert writingprompts.clean_story(STORY) == (CLEANED, 2)


@pytest.mark.parametrize(
    ("raw", "prompt", "tags"),
    [
        ("[ WP ] He did n't go , did he ?\n", "He didn't go, did he?", {"wp"}),
        ("[ TT ] [ IP ] The exchange", "The exchange", {"tt", "ip"}),
        ("[WP]The lamp went out", "The lamp went out", {"wp"}),
        ("[ Modpost ] New rules", "New rules", {"modpost"}),
        ("A [ strange ] door", "A [strange] door", set()),
    ],
)
def test_prompts_lose_their_tags(raw: str, prompt: str, tags: set[str]) -> None:
    assert writingprompts.clean_prompt(raw) == (prompt, tags)


@pytest.mark.parametrize(
    ("spaced", "prose"),
    [
        ("I ca n't , you 've , he 'd", "I can't, you've, he'd"),
        ("“ I ’ m Laura . ”", "“I’m Laura.”"),
        ("didn ’ t seem", "didn’t seem"),
        ("the ‘ founders ’ left", "the ‘founders’ left"),
        ("( though ) [ so ]", "(though) [so]"),
        ("`` What ? ``, he said", '"What?", he said'),
        ("$ 5 , 30 %", "$5, 30%"),
        ("a .45 and 3.5 , so", "a .45 and 3.5, so"),
        ("dogs ' bowls and 'quoted' words", "dogs ' bowls and 'quoted' words"),
    ],
)
def test_spaced_punctuation_is_undone(spaced: str, prose: str) -> None:
    assert undo_treebank(spaced) == prose


def test_links_become_their_words_and_the_authors_pages_go() -> None:
    text = "He saw [ the doll ] ( https: //en.example.org/wiki/Doll_(toy) ) there."
    assert writingprompts.clean_story(text)[0] == "He saw the doll there."
    assert (
        writingprompts.clean_story("He read r/nosleep.\n\nIt was late.\n\nA.\n\nB.\n\nC.")[1] == 0
    )


@MANY
@given(noisy)
def test_cleaning_stories_is_idempotent_and_leaves_no_controls(text: str) -> None:
    once = writingprompts.clean_story(text)[0]
    assert writingprompts.clean_story(once)[0] == once
    assert not has_controls(once)


@MANY
@given(noisy)
def test_undoing_the_tokeniser_loses_no_letter_and_is_idempotent(text: str) -> None:
    undone = undo_treebank(text)
    assert letters(undone) == letters(text)
    assert undo_treebank(undone) == undone
    assert letters(wikitext.detokenize(text)) == letters(text)


@MANY
@given(noisy)
def test_cleaning_pages_is_idempotent_and_loses_only_what_is_counted(text: str) -> None:
    cleaned, furniture, links = openwebtext.clean_page(text)
    assert openwebtext.clean_page(cleaned) == (cleaned, 0, 0)
    if not furniture and not links:
        assert letters(cleaned) == letters(text)


WIKI = """
 = Lampwrights of Sarn =

 The Lampwrights ( est . 1388 ) kept 1 @,@ 900 well @-@ known " lights " , 0 @.@ 5 m high .

 = = The guild 's end = =

 It rained from 1950 – 51 ; the members ' hats were $ 5 and / or free .

 = Second =
 Another article .
"""


def test_wikitext_lines_become_articles() -> None:
    assert list(wikitext.articles(WIKI.splitlines(keepends=True))) == [
        (
            "Lampwrights of Sarn",
            'The Lampwrights (est. 1388) kept 1,900 well-known "lights", 0.5 m high.\n\n'
            "The guild's end\n\n"
            "It rained from 1950–51; the members' hats were $5 and/or free.",
            'The Lampwrights ( est . 1388 ) kept 1 @,@ 900 well @-@ known " lights " , 0 @.@ 5 m '
            "high .\n= = The guild 's end = =\n"
            "It rained from 1950 – 51 ; the members ' hats were $ 5 and / or free .",
        ),
        ("Second", "Another article.", "Another article ."),
    ]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_the_forms_of_wikitext_give_the_same_articles(tmp_path: Path, ending: str) -> None:
    article = " ".join(["word"] * 60)
    lines = "".join(f" = T{i} = \n \n {article} {i} . \n = = S = = \n x y . \n" for i in range(3))
    (tmp_path / "wiki.raw").write_bytes(lines.replace("\n", ending).encode())
    rows = [{"text": f"{line}\n" if line.strip() else ""} for line in lines.split("\n")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    from_lines = read_documents([str(tmp_path / "wiki.raw")], Config())
    from_rows = read_documents([str(tmp_path / "rows.jsonl")], Config())
    assert from_lines == from_rows and len(from_rows) == 3
    assert from_rows[1].title == "T1" and from_rows[1].source == "wikitext"
    # Figures by the word are over those of the original, as the field's are.
    assert from_rows[1].original_words == 60 + 2 + 5 + 3


def test_the_old_form_of_wikitext_is_said_to_be_lossy(tmp_path: Path) -> None:
    text = "".join(f" = T{i} = \n {varied(i, 60)} {'a <unk> b ' * 30} . \n" for i in range(12))
    (tmp_path / "wiki.train.tokens").write_text(text)
    report = load_corpus(Config(), [str(tmp_path / "wiki.train.tokens")]).reports["wikitext"]
    assert report.flagged["words lost as <unk>"] == 360
    assert any("<unk>" in note for note in report.notes)


def long_story(number: int) -> str:
    return (
        f"Story {number} began . " + f"It went on in the way of number {number} , `` so '' . " * 6
    )


def test_the_forms_of_writingprompts_give_the_same_documents(tmp_path: Path) -> None:
    prompts = [f"[ WP ] Prompt {i} , please" for i in range(20)]
    rows = [{"prompt": f"{p}\n", "story": long_story(i)} for i, p in enumerate(prompts)]
    (tmp_path / "hub.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "x.wp_source").write_text("".join(f"{p}\n" for p in prompts))
    (tmp_path / "x.wp_target").write_text("".join(f"{long_story(i)}\n" for i in range(20)))
    from_rows = read_documents([str(tmp_path / "hub.jsonl")], Config())
    from_pairs = read_documents([str(tmp_path / "x.wp_source")], Config())
    assert from_rows == from_pairs and len(from_rows) == 20
    assert from_rows[3].prompt == "Prompt 3, please"
    assert from_rows[3].text.startswith('Story 3 began. It went on in the way of number 3, "so".')


def test_fairseq_pairs_must_be_aligned(tmp_path: Path) -> None:
    source = tmp_path / "x.wp_source"
    source.write_text("[ WP ] one\n[ WP ] two\n")
    with pytest.raises(InputError, match=r"x\.wp_target does not exist"):
        load_corpus(Config(), [str(source)])
    source.with_suffix(".wp_target").write_text(f"{long_story(1)}\n")
    with pytest.raises(InputError, match="line 2 has no partner"):
        load_corpus(Config(), [str(source)])
    with pytest.raises(InputError, match="holds stories only"):
        load_corpus(Config(), [str(source.with_suffix(".wp_target"))])


def test_the_stories_of_one_prompt_stay_on_one_side(tmp_path: Path) -> None:
    rows = [{"prompt": f"[ WP ] Prompt {i % 10} .", "story": long_story(i)} for i in range(60)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = load_corpus(Config(), [str(tmp_path / "a.jsonl")])
    held = {d.prompt for d in corpus.validation}
    assert held and not held & {d.prompt for d in corpus.train}


def test_posts_that_are_no_stories_are_counted(tmp_path: Path) -> None:
    rows = [{"prompt": f"[ WP ] P {i} .", "story": long_story(i)} for i in range(20)]
    rows += [
        {"prompt": "[ OT ] Sunday chat", "story": long_story(100)},
        {"prompt": "[ WP ] P x .", "story": "[removed]"},
        {"prompt": "[ WP ] P y .", "story": "Too short ."},
        {"prompt": "[ WP ] P z .", "story": ""},
        {"prompt": "[ WP ] P q .", "story": "Off-Topic Discussion: " + long_story(5)},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = load_corpus(Config(), [str(tmp_path / "a.jsonl")]).reports["writingprompts"]
    assert report.documents == 20
    assert report.dropped == {
        "posts off the topic": 1,
        "not what the source is for": 3,
        "rows without text": 1,
    }


def test_a_writers_own_prompts_are_not_taken_for_writingprompts(tmp_path: Path) -> None:
    rows = [{"prompt": f"Write about {i}.", "story": f"It was {i}. It ended."} for i in range(20)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(load_corpus(Config(), [str(tmp_path / "mine.jsonl")]).reports) == ["mine"]


def five(number: int) -> list[str]:
    return [f"Ann {number} did {varied(100 * number + i, 9)}." for i in range(1, 6)]


def write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> str:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    return str(path)


def test_the_forms_of_rocstories_give_the_same_stories(tmp_path: Path) -> None:
    official = write_csv(
        tmp_path / "official.csv",
        ["storyid", "storytitle", *(f"sentence{i}" for i in range(1, 6))],
        [[f"id{i}", f"Title {i}", *five(i)] for i in range(10)],
    )
    cloze = write_csv(
        tmp_path / "cloze.csv",
        ["InputStoryid", *(f"InputSentence{i}" for i in range(1, 5))]
        + ["RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2", "AnswerRightEnding"],
        [[f"id{i}", *five(i)[:4], *(["Wrong.", five(i)[4]]), 2] for i in range(9)]
        + [["id9", *five(9), "Wrong.", 1], ["id10", *five(10), "Wrong.", 3]],
    )
    rows = [{"prompt": five(i)[0], "continuation": " ".join(five(i)[1:])} for i in range(10)]
    (tmp_path / "hub.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = [read_documents([f], Config()) for f in (official, cloze, str(tmp_path / "hub.jsonl"))]
    stories = [[(d.source, d.group, d.prompt, d.text) for d in documents] for documents in read]
    assert stories[0] == stories[1] == stories[2] and len(stories[0]) == 10
    assert read[0][0].title == "Title 0"
    corpus = load_corpus(Config(), [official, cloze])
    assert corpus.reports["rocstories"].duplicates == 10
    assert corpus.reports["rocstories"].dropped == {"rows without a right ending": 1}


def page(number: int) -> str:
    sentences = " ".join(f"Page {number} says {varied(number + i, 9)}." for i in range(30))
    return (
        f"{sentences}\n\nAdvertisement Continue reading the main story\n\n"
        f"See http://x.org/{number} for more of it.\n\nADVERTISEMENT\n\n"
        f"An advertisement for soap hung on wall {number}."
    )


def test_openwebtext_is_read_from_rows_and_from_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "pages"
    folder.mkdir()
    for i in range(12):
        (folder / f"{i:02d}.txt").write_text(page(i))
    (tmp_path / "o.jsonl").write_text(
        "".join(json.dumps({"text": page(i)}) + "\n" for i in range(12))
    )
    from_rows = read_documents([f"openwebtext={tmp_path / 'o.jsonl'}"], Config())
    from_folder = read_documents([f"openwebtext={folder}"], Config())
    assert [d.text for d in from_rows] == [d.text for d in from_folder] and len(from_rows) == 12
    assert from_rows[0].source == from_folder[0].source == "openwebtext"
    assert "See for more of it." in from_rows[0].text and "soap hung" in from_rows[0].text
    report = load_corpus(Config(), [f"openwebtext={tmp_path / 'o.jsonl'}"]).reports["openwebtext"]
    assert report.dropped == {"lines of advertisement": 24, "links": 12}


def test_a_named_source_in_an_unknown_form_says_its_forms(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", ["one", "two"], [["a", "b"]])
    with pytest.raises(InputError, match="has none of the forms of rocstories") as raised:
        load_corpus(Config(), [f"rocstories={path}"])
    assert "one, two" in (raised.value.advice or "")


def test_predicates_say_what_a_source_is_for() -> None:
    def document(text: str, prompt: str | None = None) -> Document:
        return Document("x", "g", text, prompt)

    assert writingprompts.is_story(document("word " * 40))
    assert not writingprompts.is_story(document("[ deleted ]"))
    assert rocstories.is_story(document("word " * 30, "First."))
    assert not rocstories.is_story(document("word " * 30))
    assert wikitext.is_article(document("word " * 60))
    assert openwebtext.is_prose(document("This is a sentence of the page. " * 30))
    assert not openwebtext.is_prose(document("x = {1: 2}; // y " * 100))


def test_explicit_texts_are_flagged_and_kept(tmp_path: Path) -> None:
    assert not is_explicit("The cock crowed and the dickens of it was the raptor.")
    assert is_explicit("porn and an orgasm")
    rows = [{"prompt": f"[ WP ] P {i} .", "story": long_story(i)} for i in range(20)]
    rows[3]["story"] += " porn and an orgasm"
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = load_corpus(Config(), [str(tmp_path / "a.jsonl")]).reports["writingprompts"]
    assert report.flagged == {"explicit": 1} and report.documents == 20


def test_a_custom_source_is_used_by_its_name() -> None:
    @register_source("mine")
    def mine(config: Config) -> Any:
        for number in range(30):
            yield Document("?", str(number), f"The story of {number}.\r\nIt ended.")

    corpus = load_corpus(Config(sources=["mine", "sample"]))
    assert corpus.reports["mine"].train == 27
    assert corpus.train[0] == Document("mine", corpus.train[0].group, corpus.train[0].text)
    assert "\r" not in corpus.train[0].text
    assert load_corpus(Config(sources=["mine"])).train[0].source == "mine"


def test_custom_sources_are_checked() -> None:
    with pytest.raises(InputError, match="built-in"):
        register_source("wikitext")

    @register_source("wrong")
    def wrong(config: Config) -> Any:
        yield "just text"

    with pytest.raises(InputError, match="yields str instead of Document"):
        load_corpus(Config(sources=["wrong"]))
    with pytest.raises(InputError, match="no source 'wikitex'") as raised:
        load_corpus(Config(sources=["wikitex"]))
    assert raised.value.advice == "did you mean 'wikitext'?"


def test_a_custom_source_can_come_from_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "poems_plugin.py").write_text(
        "from creativewritinggpt.data.document import Document\n"
        "def poems(config):\n"
        "    for i in range(20):\n"
        "        yield Document('poems', str(i), f'Poem {i} of the sea.')\n"
    )
    info = tmp_path / "poems-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: poems\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[creativewritinggpt.sources]\npoems = poems_plugin:poems\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert load_corpus(Config(sources=["poems"])).reports["poems"].train == 18


def test_reports_survive_being_stored() -> None:
    report = SourceReport("x")
    report.drop("why", 2)
    report.flag("what")
    report.note("note")
    reading = Reading(report)
    reading.begin("x.txt")
    reading.file.characters += characters("a b c\n")
    reading.file.leave_out("licence", "c")
    reading.keep(Document("x", "g", "b", prompt="a"))
    assert (reading.file.characters, reading.file.kept, reading.file.share) == (3, 2, 2 / 3)
    assert SourceReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report

    report.add(SourceReport.from_dict(report.to_dict()))
    assert report.files["x.txt"].left_out == {"licence": 2}


FABLES = '''
"""Fables: a moral and its tale, a line each."""

from creativewritinggpt.data.document import Document
from creativewritinggpt.data.readers.tables import row_group
from creativewritinggpt.data.sources import HubSet, NamedSource, RowForm, per_row
from creativewritinggpt.data.text import clean, clean_line


@per_row
def _fable(row, reading, label, number):
    moral, tale = clean_line(row["moral"]), clean(row["tale"])
    if not tale:
        reading.report.drop("rows without text")
        return None
    return Document("fables", row_group(label, number, moral), tale, prompt=moral)


SOURCE = NamedSource(
    name="fables",
    rows=(
        RowForm(
            description="rows of moral and tale",
            has_columns={"moral", "tale"}.issubset,
            looks_right=lambda table: True,
            documents=_fable,
        ),
    ),
    keep=lambda document: len(document.text.split()) > 3,
    hub=HubSet("someone/fables"),
)
'''


def test_a_new_source_is_one_file_and_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fables.py").write_text(FABLES)
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(tmp_path)])
    monkeypatch.setattr(sources, "BUILT_IN", (*sources.BUILT_IN, "fables"))
    sources.named_sources.cache_clear()
    try:
        assert "fables" in sources.source_names()
        rows = [{"moral": f"Moral {i}", "tale": f"A fox met {i} storks."} for i in range(20)]
        path = tmp_path / "mine.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {**rows[0], "tale": ""}]))
        corpus = load_corpus(Config(), [str(path)])
        report = corpus.reports["fables"]
        assert report.form == "rows of moral and tale (JSON lines)" and report.documents == 20
        assert report.dropped == {"rows without text": 1}
        assert corpus.train[0].prompt is not None and corpus.train[0].source == "fables"
        with pytest.raises(InputError, match="built-in"):
            register_source("fables")
    finally:
        monkeypatch.undo()
        sources.named_sources.cache_clear()
        sys.modules.pop("creativewritinggpt.data.sources.fables", None)
