"""Every real sample through the real loaders: counts, and what cleaned text must look like.

Nothing of the samples is quoted here: texts are checked by counts, hashes of what must not change,
and patterns that must not be left.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from creativewritinggpt.config.run import Config
from creativewritinggpt.data.corpus import load_corpus, read_documents
from creativewritinggpt.data.document import Document, SourceReport

pytestmark = pytest.mark.realdata

TREEBANK = re.compile(r"``| n't\b|\w '(?:s|d|ll|re|ve|m)\b|\w ’ (?:s|t|d|ll|re|ve|m)\b|<newline>")
SPACED = re.compile(r"\w [,!?](?!\w)|\w \.(?![\w.])|[(“‘] \w")
DAMAGE = re.compile(
    "[\u00c2\u00c3\u00e2][\u0080-\u00bf\u20ac]|\ufffd|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)


def load(*files: str, **settings: Any) -> tuple[list[Document], dict[str, SourceReport]]:
    documents = read_documents(list(files), Config(**settings))
    return documents, load_corpus(Config(**settings), list(files)).reports


def said(documents: list[Document]) -> str:
    return "\n\n".join(document.full_text() for document in documents)


def share_with(pattern: re.Pattern[str], documents: list[Document]) -> float:
    return sum(bool(pattern.search(d.full_text())) for d in documents) / len(documents)


def test_every_file_loads_and_nothing_damaged_is_left(real_data: Path) -> None:
    files = [p for p in sorted(real_data.rglob("*.*")) if p.suffix not in (".md", ".wp_target")]
    assert len(files) >= 12
    for path in files:
        documents = read_documents([str(path)], Config())
        assert documents, path
        assert not DAMAGE.search(said(documents)), path
        assert all(document.text == document.text.strip("\n") for document in documents)
        assert all("\n\n\n" not in document.text for document in documents)


def test_writingprompts_rows_are_prose_with_their_prompts(real_data: Path) -> None:
    path = real_data / "writingprompts" / "hub_form.jsonl"
    documents, reports = load(str(path))
    report = reports["writingprompts"]
    raw = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert len(raw) == 400 and len(documents) == report.documents == 393
    assert report.dropped["posts off the topic"] == 7
    assert 20 <= report.dropped["notes to readers"] <= 35
    assert not TREEBANK.search(said(documents))
    assert share_with(SPACED, documents) < 0.01
    prompts = [document.prompt or "" for document in documents]
    assert all(prompts) and not any(re.match(r"\s*\[ ?[A-Za-z]{2} ?\]", p) for p in prompts)
    assert not re.search(r"https?:|(?m:^\W*edit ?:)", said(documents), re.IGNORECASE)
    # The words are still there: at most one in fifty went, with the notes and links.
    before = Counter(re.findall(r"[a-z]+", " ".join(row["story"] for row in raw).lower()))
    after = Counter(re.findall(r"[a-z]+", " ".join(d.text for d in documents).lower()))
    assert after.total() > 0.96 * before.total()


def test_the_stories_of_one_prompt_stay_together(real_data: Path) -> None:
    corpus = load_corpus(Config(), [str(real_data / "writingprompts" / "hub_form.jsonl")])
    held = {d.prompt for d in corpus.validation}
    assert len(corpus.validation) >= 30 and not held & {d.prompt for d in corpus.train}


def test_fairseq_pairs_are_the_same_stories_as_the_rows(real_data: Path) -> None:
    folder = real_data / "writingprompts"
    pairs, _ = load(str(folder / "sample.wp_source"))
    rows, _ = load(str(folder / "hub_form.jsonl"))
    assert len(pairs) == 147
    both = {d.digest for d in pairs} & {d.digest for d in rows}
    assert len(both) > 0.5 * len(pairs)
    assert not TREEBANK.search(said(pairs)) and share_with(SPACED, pairs) < 0.01
    files = [str(folder / "sample.wp_source"), str(folder / "hub_form.jsonl")]
    report = load_corpus(Config(), files).reports["writingprompts"]
    assert report.duplicates + report.near_duplicates >= 140


def test_rocstories_come_out_alike_from_every_form(real_data: Path) -> None:
    folder = real_data / "rocstories"
    counts = {"hub_form.jsonl": 1500, "official_form.csv": 600, "story_cloze_val_sample.csv": 200}
    for name, count in counts.items():
        documents, reports = load(str(folder / name))
        assert len(documents) == reports["rocstories"].documents == count
        assert all(d.prompt and "\n" not in d.full_text() for d in documents)
        assert all(8 <= len(d.text.split()) <= 120 for d in documents)
    titled, _ = load(str(folder / "official_form.csv"))
    assert all(document.title for document in titled)


def test_wikitext_lines_and_rows_are_the_same_sixty_articles(real_data: Path) -> None:
    folder = real_data / "wikitext"
    lines, _ = load(str(folder / "wiki.valid.raw"))
    rows, _ = load(str(folder / "validation.jsonl"))
    assert len(lines) == len(rows) == 60
    assert [d.digest for d in lines] == [d.digest for d in rows]
    assert all(d.title and d.source == "wikitext" for d in lines)
    text = said(lines)
    assert not re.search(r"@[-,.]@|(?m:^ ?= )|<unk>", text)
    assert share_with(SPACED, lines) < 0.1
    raw = (folder / "wiki.valid.raw").read_text("utf-8")
    kept = "".join(re.findall(r"[^\W_]", text + "".join(d.title or "" for d in lines)))
    assert Counter(kept) == Counter(re.findall(r"[^\W_]", raw))


def test_openwebtext_pages_lose_their_advertisements(real_data: Path) -> None:
    path = real_data / "openwebtext" / "sample.jsonl"
    documents, reports = load(f"openwebtext={path}")
    report = reports["openwebtext"]
    assert report.documents == len(documents) >= 295
    assert 60 <= report.dropped["lines of advertisement"] <= 100
    assert not re.search(r"(?im)^advertisements?$|https?://\w", said(documents))
    # Without its name it is any set of texts, under the name of its file.
    assert load_corpus(Config(), [str(path)]).reports["sample"].documents == 300


@pytest.mark.parametrize(
    ("name", "chapters", "front"),
    [("the_war_of_the_worlds", 27, 804), ("the_hound_of_the_baskervilles", 15, 39)],
)
def test_novels_are_cut_at_their_chapters_and_unwrapped(
    real_data: Path, name: str, chapters: int, front: int
) -> None:
    path = real_data / "fiction" / f"{name}.txt"
    documents, reports = load(str(path))
    report = reports[name]
    assert len(documents) == chapters and "wrapped lines joined" in report.form
    assert not report.dropped
    assert report.files[path.name].left_out == {"front matter": front}
    titles = [document.title for document in documents]
    assert len(set(titles)) == chapters and all(titles)
    # No line is left that was wrapped: paragraphs end where sentences do.
    paragraphs = [p for d in documents for p in d.text.split("\n\n")]
    assert not any("\n" in p for p in paragraphs)
    ended = sum(p.rstrip()[-1] in ".!?”’:—*)-,;" for p in paragraphs)
    assert ended > 0.99 * len(paragraphs)
    assert not re.search(r"_\w+_|\[Illustration", said(documents))
    words = re.findall(r"\w+", path.read_text("utf-8").replace("_", " "))
    kept = re.findall(r"\w+", said(documents)) + re.findall(r"\w+", " ".join(map(str, titles)))
    assert 0 <= len(words) - len(kept) < 350


def test_a_folder_is_one_domain_of_many_groups(real_data: Path) -> None:
    documents, reports = load(str(real_data / "fiction"))
    assert list(reports) == ["fiction"] and len(documents) == 162
    assert len({d.group for d in documents}) >= 160


def test_mojibake_is_mended(real_data: Path) -> None:
    path = real_data / "tinystories" / "sample.jsonl"
    damaged = sum("â€" in json.loads(line)["text"] for line in path.open(encoding="utf-8"))
    documents, _ = load(str(path))
    assert damaged > 20 and len(documents) == 200
    assert not any("â" in d.text or "†" in d.text for d in documents)
    assert sum("”" in d.text for d in documents) >= damaged / 2


def test_all_four_sources_mix_without_leaks(real_data: Path) -> None:
    files = [
        str(real_data / "writingprompts" / "hub_form.jsonl"),
        str(real_data / "rocstories" / "hub_form.jsonl"),
        str(real_data / "wikitext" / "wiki.valid.raw"),
        f"openwebtext={real_data / 'openwebtext' / 'sample.jsonl'}",
    ]
    corpus = load_corpus(Config(), files)
    assert sorted(corpus.reports) == ["openwebtext", "rocstories", "wikitext", "writingprompts"]
    assert all(report.validation for report in corpus.reports.values())
    for key in ("group", "digest"):
        held = {getattr(d, key) for d in corpus.validation}
        assert not held & {getattr(d, key) for d in corpus.train}
