from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from creativewritinggpt.config.run import Config
from creativewritinggpt.data import corpus as corpus_module
from creativewritinggpt.data.corpus import load_corpus, read_documents
from creativewritinggpt.data.document import Document
from creativewritinggpt.errors import InputError

SAID = "the harbour lay still under a lid of cloud and nobody would say whose boat it was"
WORDS = SAID.split()


def sentence(seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=14)).capitalize() + "."


def rows(path: Path, count: int = 30, start: int = 0, **extra: Any) -> Path:
    made = [
        {"prompt": f"Prompt {i}", "text": f"{sentence(i)} {sentence(i + 5000)}", **extra}
        for i in range(start, start + count)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


def test_the_sample_corpus_loads_with_a_validation_part_of_each_source() -> None:
    corpus = load_corpus(Config(sources=["sample"]))
    assert sorted(corpus.reports) == ["openwebtext", "rocstories", "wikitext", "writingprompts"]
    for report in corpus.reports.values():
        assert report.train > report.validation >= 1 and report.form and report.words > 3000
        assert report.documents == (
            report.train + report.validation + report.duplicates + report.near_duplicates
        )
    assert not {d.group for d in corpus.train} & {d.group for d in corpus.validation}
    assert not {d.digest for d in corpus.train} & {d.digest for d in corpus.validation}


def test_a_file_becomes_a_domain_by_its_stem(tmp_path: Path) -> None:
    corpus = load_corpus(Config(), [str(rows(tmp_path / "mine.jsonl"))])
    assert list(corpus.reports) == ["mine"]
    report = corpus.reports["mine"]
    assert report.form == "JSON lines, prompt from 'prompt', text from 'text'"
    assert (report.train, report.validation) == (27, 3)
    assert corpus.train[0].source == "mine" and corpus.train[0].prompt is not None


def test_name_equals_path_names_the_domain(tmp_path: Path) -> None:
    corpus = load_corpus(Config(), [f"tales={rows(tmp_path / 'mine.jsonl')}"])
    assert list(corpus.reports) == ["tales"]
    assert {d.source for d in corpus.train} == {"tales"}


def test_files_of_one_name_in_two_folders_are_two_domains(tmp_path: Path) -> None:
    first = rows(tmp_path / "one" / "book.jsonl")
    second = rows(tmp_path / "two" / "book.jsonl", start=100)
    corpus = load_corpus(Config(), [str(first), str(second)])
    assert sorted(corpus.reports) == ["one-book", "two-book"]


def test_a_folder_is_one_domain_and_other_files_in_it_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "stories"
    folder.mkdir()
    for i in range(12):
        (folder / f"{i}.txt").write_text(f"{sentence(i)} {sentence(i + 100)}")
    (folder / "cover.png").write_bytes(b"\x89PNG")
    (folder / "empty.txt").write_text("")
    (folder / ".hidden.txt").write_text("hidden")
    corpus = load_corpus(Config(), [str(folder)])
    report = corpus.reports["stories"]
    assert report.documents == 12 and report.dropped == {"files that can't be read": 2}
    refused = {name: file.refused for name, file in report.files.items() if file.refused}
    assert refused == {"cover.png": "is a picture", "empty.txt": "is empty"}
    assert len(corpus.train) == 11 and len(corpus.validation) == 1


def test_a_novel_is_cut_at_its_chapters_which_are_groups(tmp_path: Path) -> None:
    chapters = [
        f"CHAPTER {i}\n\n" + "\n\n".join(sentence(100 * i + j) for j in range(9))
        for i in range(1, 13)
    ]
    (tmp_path / "book.txt").write_text("\n\n\n".join(chapters))
    corpus = load_corpus(Config(), [str(tmp_path / "book.txt")])
    assert len(corpus.train) == 11 and len(corpus.validation) == 1
    assert corpus.train[0].title == "CHAPTER 1"
    assert corpus.reports["book"].form == "text in 12 chapters"


def test_the_manifest_names_every_document_and_its_hash_follows_them(tmp_path: Path) -> None:
    path = rows(tmp_path / "mine.jsonl")
    first = load_corpus(Config(), [str(path)]).manifest()
    assert len(first["train"]) == 27 and len(first["validation"]) == 3
    origin = first["sources"]["mine"]["origin"]["files"][0]
    assert origin["name"] == "mine.jsonl" and len(origin["sha256"]) == 64
    assert load_corpus(Config(), [str(path)]).manifest() == first
    assert (
        load_corpus(Config(seed=1), [str(path)]).manifest()["manifest_hash"]
        != (first["manifest_hash"])
    )
    json.dumps(first)


def test_a_second_run_reads_nothing_again_and_a_changed_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = rows(tmp_path / "mine.jsonl")
    first = list(load_corpus(Config(), [str(path)]).train)
    written: list[str] = []
    write = corpus_module.write_store
    monkeypatch.setattr(
        corpus_module, "write_store", lambda *given: (written.append("again"), write(*given))
    )
    assert list(load_corpus(Config(), [str(path)]).train) == first and not written
    load_corpus(Config(max_documents=5), [str(path)])
    rows(path, start=1)
    assert list(load_corpus(Config(), [str(path)]).train) != first
    assert written == ["again", "again"]


def test_a_damaged_cache_is_made_again(tmp_path: Path) -> None:
    path = rows(tmp_path / "mine.jsonl")
    config = Config(cache_dir=str(tmp_path / "cache"))
    first = list(load_corpus(config, [str(path)]).train)
    for damage in ("documents.jsonl", "report.json", "offsets.npy"):
        entry = next(p for p in (tmp_path / "cache" / "documents").iterdir() if p.is_dir())
        (entry / damage).write_bytes((entry / damage).read_bytes()[:-20])
        assert list(load_corpus(config, [str(path)]).train) == first


def test_max_documents_bounds_what_is_read(tmp_path: Path) -> None:
    corpus = load_corpus(Config(max_documents=7), [str(rows(tmp_path / "mine.jsonl"))])
    assert len(corpus.train) + len(corpus.validation) == 7


def test_documents_are_read_without_a_split(tmp_path: Path) -> None:
    documents = read_documents([str(rows(tmp_path / "mine.jsonl"))], Config())
    assert len(documents) == 30 and documents[3].prompt == "Prompt 3"


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "odd.csv"
    path.write_text("idea,words\n" + "".join(f"q{i},{sentence(i)}\n" for i in range(20)))
    with pytest.raises(InputError, match=r"words \(96%\), idea \(4%\)"):
        load_corpus(Config(), [str(path)])
    config = Config(prompt_column="idea", text_column="words")
    corpus = load_corpus(config, [str(path)])
    assert corpus.train[0].prompt and corpus.reports["odd"].form == (
        "CSV, prompt from 'idea', text from 'words'"
    )


def test_rows_without_text_are_counted(tmp_path: Path) -> None:
    path = rows(tmp_path / "mine.jsonl")
    with path.open("a") as stream:
        stream.write('{"text": ""}\n{"text": null}\n{"prompt": "only"}\n{"text": " \\n "}\n')
    report = load_corpus(Config(), [str(path)]).reports["mine"]
    assert report.documents == 30 and report.dropped == {"rows without text": 4}


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "is empty"),
        ("a.txt", "\n \n", "holds no text"),
        ("a.txt", b"\x89PNG\0\0\0\0", "is a picture"),
        ("a.txt", b"\x90PNG\0\0\0\0", "is a binary file"),
        ("a.txt", "It was night.", "too short to hold out"),
        ("a.pdf", "%PDF", "can't be read"),
        ("a.jsonl", '{"text": "one"}\n{"text": \n', "line 2: not valid JSON"),
        ("a.jsonl", '{"text": ""}\n', "holds no text"),
        ("a.csv", "text\n", "has no rows"),
        ("a.parquet", "PAR1 nonsense", "is not a whole parquet file"),
    ],
)
def test_bad_files_are_one_clear_line(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(InputError, match=message) as raised:
        load_corpus(Config(), [path])
    assert raised.value.exit_code == 2 and "\n" not in raised.value.message
    assert "a" in raised.value.message and raised.value.advice


def test_missing_files_and_unknown_sources_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.txt does not exist"):
        load_corpus(Config(), [str(tmp_path / "nowhere.txt")])
    with pytest.raises(InputError, match="no source 'poems'"):
        load_corpus(Config(sources=["poems"]))
    (tmp_path / "bare").mkdir()
    with pytest.raises(InputError, match="holds no file that can be read"):
        load_corpus(Config(), [str(tmp_path / "bare")])


def test_missing_sources_can_be_skipped_and_are_recorded(tmp_path: Path) -> None:
    good, bad = str(rows(tmp_path / "mine.jsonl")), str(tmp_path / "nowhere.txt")
    corpus = load_corpus(Config(skip_missing=True), [good, bad])
    assert list(corpus.reports) == ["mine"] and "does not exist" in corpus.missing[bad]
    assert corpus.manifest()["missing"] == corpus.missing
    with pytest.raises(InputError, match="no source could be read"):
        load_corpus(Config(skip_missing=True), [bad])


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-8-sig"])
def test_a_novel_in_another_encoding_is_read(tmp_path: Path, encoding: str) -> None:
    text = "\n\n".join(f"Où était {sentence(i)}" for i in range(30))
    path = write(tmp_path / "a.txt", text.encode(encoding))
    corpus = load_corpus(Config(), [path])
    whole = f"{corpus.train[0].text}\n\n{corpus.validation[0].text}"
    assert whole == text


@pytest.mark.slow
def test_progress_is_told_in_bytes_and_reaches_the_size(tmp_path: Path) -> None:
    path = rows(tmp_path / "mine.jsonl", count=12_000)
    told: list[tuple[str, int, int | None]] = []
    load_corpus(Config(), [str(path)], lambda *what: told.append(what))
    reading = [entry for entry in told if entry[0] == "reading mine"]
    assert reading and reading[-1][2] == path.stat().st_size
    assert reading[-1][1] > 0.5 * path.stat().st_size
    assert any(entry[0] == "looking for near duplicates" for entry in told)


def test_a_predicate_says_which_documents_are_wanted(tmp_path: Path) -> None:
    path = rows(tmp_path / "mine.jsonl")

    def ends_in_five(document: Document) -> bool:
        return (document.prompt or "").endswith("5")

    keep = {"mine": ends_in_five}
    corpus = load_corpus(Config(), [str(path)], keep=keep)
    assert {d.prompt for d in [*corpus.train, *corpus.validation]} == {
        "Prompt 5",
        "Prompt 15",
        "Prompt 25",
    }
    assert list(corpus.reports["mine"].dropped.values()) == [27]
    assert "ends_in_five" in next(iter(corpus.reports["mine"].dropped))
    assert "ends_in_five" in corpus.reports["mine"].notes[0]
    assert load_corpus(Config(), [str(path)]).reports["mine"].documents == 30
    with pytest.raises(InputError, match="keep names yours"):
        load_corpus(Config(), [str(path)], keep={"yours": ends_in_five})


def test_a_text_that_only_bears_a_sources_name_is_a_text(tmp_path: Path) -> None:
    text = "\n\n".join(sentence(i) for i in range(30))
    path = write(tmp_path / "rocstories.txt", text)
    corpus = load_corpus(Config(), [path])
    assert f"{corpus.train[0].text}\n\n{corpus.validation[0].text}" == text


def test_books_of_one_name_do_not_share_groups(tmp_path: Path) -> None:
    for shift, folder in ((0, "one"), (500, "two")):
        (tmp_path / folder).mkdir()
        chapters = [
            f"CHAPTER {i}\n\n{sentence(shift + i)} {sentence(shift + 90 + i)}" for i in range(1, 9)
        ]
        (tmp_path / folder / "book.txt").write_text("\n\n\n".join(chapters))
    corpus = load_corpus(Config(), [str(tmp_path / f / "book.txt") for f in ("one", "two")])
    assert sorted(corpus.reports) == ["one-book", "two-book"]
    assert all(report.train == 7 for report in corpus.reports.values())


def test_what_max_documents_leaves_unread_is_not_called_lost(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    chapters = ["\n\n".join(sentence(100 * i + j) for j in range(9)) for i in range(1, 9)]
    path.write_text("\n\n\n".join(f"CHAPTER {i}\n\n{c}" for i, c in enumerate(chapters, 1)))
    report = load_corpus(Config(cache_dir=str(tmp_path), max_documents=3), [str(path)]).reports
    file = report["book"].files["book.txt"]
    assert "chapters" in file.form and file.share == 1 and not file.is_little
    assert report["book"].notes == ["no more than 3 documents were read (max_documents)"]
    whole = load_corpus(Config(cache_dir=str(tmp_path)), [str(path)]).reports["book"]
    assert whole.files["book.txt"].kept > 2 * file.kept and not whole.notes
