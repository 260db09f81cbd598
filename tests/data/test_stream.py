from __future__ import annotations

import json
import random
import re
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from creativewritinggpt.config.run import Config
from creativewritinggpt.data import document
from creativewritinggpt.data.document import Document
from creativewritinggpt.data.rows import stream
from creativewritinggpt.data.rows.packing import IGNORE, PackedRows
from creativewritinggpt.data.rows.stream import StreamedCorpus, StreamedRows, open_corpus, together
from creativewritinggpt.data.sources import register_source
from creativewritinggpt.data.splits import ReservedGroups
from creativewritinggpt.errors import InputError

SHAPE = {"max_length": 64, "bos_id": 0, "eos_id": 0, "mask_prompt": False}
VOCABULARY = [f"{a}{b}{c}" for a in "bdfklmnprst" for b in "aeiou" for c in "bdfklmnprst"]
FORMS = ("rows.jsonl", "table.csv", "shards", "folder")


def text(number: int, words: int = 20) -> str:
    """Made-up words around a mark by which the document is known again."""
    return f"#{number}# {' '.join(random.Random(number).choices(VOCABULARY, k=words))}."


def write(folder: Path, name: str, count: int, start: int = 0) -> str:
    """A corpus of numbered documents in one of the forms that people have."""
    import pyarrow
    import pyarrow.parquet

    numbers = range(start, start + count)
    rows = [{"text": text(number, 5 + number % 40)} for number in numbers]
    place = folder / name
    if name.endswith(".jsonl"):
        place.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif name.endswith(".csv"):
        place.write_text("text\n" + "".join(f'"{row["text"]}"\n' for row in rows))
    elif name == "shards":
        place.mkdir()
        for shard in range(3):
            part = pyarrow.Table.from_pylist(rows[shard::3])
            pyarrow.parquet.write_table(part, place / f"{shard}.parquet", row_group_size=7)
    else:
        place.mkdir()
        for number, row in zip(numbers, rows, strict=True):
            (place / f"{number:05}.txt").write_text(row["text"])
    return str(place)


def config(**changes: Any) -> Config:
    values = {"streaming": True, "max_steps": 1, "val_size": 6, "sources": ["none"], **changes}
    return Config(**values)


class Streams:
    """A corpus, and rows of it for any number of processes."""

    def __init__(self, files: list[str], tokenizer: Any, **changes: Any) -> None:
        self.config = config(**changes)
        self.tokenizer = tokenizer
        self.corpus: StreamedCorpus = open_corpus(self.config, files)

    def rows(self, rank: int = 0, processes: int = 1, shards: int | None = None) -> StreamedRows:
        return StreamedRows(
            self.corpus, self.config, self.tokenizer, SHAPE, rank, processes, shards
        )

    def marks(self, rows: PackedRows) -> list[int]:
        """The numbers of the documents whose beginnings are in the rows."""
        found: list[int] = []
        for row in range(len(rows)):
            for segment in range(1, int(rows.segment_ids[row].max()) + 1):
                targets = rows.targets[row][rows.segment_ids[row] == segment]
                said = self.tokenizer.decode(targets[targets > 0].tolist())
                found += [int(number) for number in re.findall(r"#(\d+)#", said)]
        return found

    def reserved(self) -> set[int]:
        return {int(document.text.split("#")[1]) for document in self.corpus.reserved.documents}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups and chunks so small that a test goes through many."""
    monkeypatch.setattr(stream, "GROUP_ROWS", 3)
    monkeypatch.setattr(document, "CHUNK_ROWS", 8)


def first_pass(streams: Streams, rows: StreamedRows) -> list[int]:
    """What one shard gives until it begins again."""
    found: list[int] = []
    while True:
        given_rows = rows.take(1)
        if not len(given_rows):  # another process's turn
            continue
        marks = streams.marks(given_rows)
        if any(place["passes"] for place in rows.stats().values()):
            # The group that begins the next pass has been read.
            return found
        found += marks


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("processes", [1, 3])
def test_every_document_is_trained_on_exactly_once_a_pass(
    form: str, processes: int, tmp_path: Path, tiny_tokenizer: Any
) -> None:
    streams = Streams([write(tmp_path, form, 150)], tiny_tokenizer)
    parts = [first_pass(streams, streams.rows(rank, processes)) for rank in range(processes)]
    given_out = Counter(mark for part in parts for mark in part)
    held = {number for number in range(150) if number not in given_out}
    assert set(given_out.values()) == {1}
    assert streams.reserved() <= held and 1 <= len(held) <= 12
    assert all(len(part) > 20 for part in parts)


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    before=st.integers(0, 25),
    shards=st.integers(1, 4),
    then=st.integers(1, 4),
    form=st.sampled_from(FORMS),
)
def test_an_interruption_changes_nothing_whatever_the_processes(
    before: int,
    shards: int,
    then: int,
    form: str,
    tmp_path_factory: pytest.TempPathFactory,
    tiny_tokenizer: Any,
) -> None:
    files = [write(tmp_path_factory.mktemp("c"), form, 60)]
    files.append(write(tmp_path_factory.mktemp("d"), "more.jsonl", 30, start=500))
    streams = Streams(files, tiny_tokenizer)
    step, after = 4, 12
    alone = streams.rows(shards=shards)
    whole = [alone.take(step) for _ in range(before + after)]

    def steps(processes: int, state: dict[str, Any] | None, count: int) -> tuple[Any, ...]:
        team = [streams.rows(rank, processes, shards) for rank in range(processes)]
        for rows in team:
            if state is not None:
                rows.restore(state)
        taken = []
        for number in range(count):
            start = number * step if state is None else state["next"] + number * step
            numbers = np.arange(start, start + step)
            ids = np.zeros((step, SHAPE["max_length"]), dtype=np.int64)
            for rank, rows in enumerate(team):
                own = np.flatnonzero(numbers % shards % processes == rank)
                part = rows.take(step)
                ids[own] = part.input_ids
            taken.append(ids)
        return taken, json.loads(json.dumps(together([rows.state() for rows in team])))

    first, state = steps(shards, None, before)
    rest, _ = steps(min(then, shards), state, after)
    for found, expected in zip([*first, *rest], whole, strict=True):
        assert np.array_equal(found, expected.input_ids)
    assert len(json.dumps(state)) < 400 * shards


def test_more_processes_than_parts_are_refused(tmp_path: Path, tiny_tokenizer: Any) -> None:
    streams = Streams([write(tmp_path, "rows.jsonl", 40)], tiny_tokenizer)
    with pytest.raises(InputError, match="streams in 2 parts, which 3 processes can't share"):
        streams.rows(0, 3, shards=2)
    state = streams.rows(0, 2).state()
    with pytest.raises(InputError, match="in 2 parts"):
        streams.rows(1, 2).restore(state)


def test_shares_are_those_asked_for_and_small_sources_begin_again(
    tmp_path: Path, tiny_tokenizer: Any
) -> None:
    files = [write(tmp_path, "a.jsonl", 400), write(tmp_path, "b.jsonl", 20, start=900)]
    streams = Streams(files, tiny_tokenizer, mix={"a": 0.75, "b": 0.25})
    rows = streams.rows()
    rows.take(300)
    stats = rows.stats()
    share = stats["b"]["tokens"] / (stats["a"]["tokens"] + stats["b"]["tokens"])
    assert abs(share - 0.25) < 0.01 and stats["b"]["passes"] >= 1
    # Without a mix both come as there is of them, all of it once.
    plain = Streams(files, tiny_tokenizer).rows()
    plain.take(60)
    stats = plain.stats()
    share = stats["b"]["tokens"] / (stats["a"]["tokens"] + stats["b"]["tokens"])
    assert abs(share - 20 / 420) < 0.02
    with pytest.raises(InputError, match="temperature"):
        Streams(files, tiny_tokenizer, mix={"temperature": 2})
    with pytest.raises(InputError, match="mix names c"):
        Streams(files, tiny_tokenizer, mix={"c": 1})


def test_what_validates_is_never_trained_on_nor_its_copies(
    tmp_path: Path, tiny_tokenizer: Any
) -> None:
    file = Path(write(tmp_path, "rows.jsonl", 300))
    rule = ReservedGroups(seed=42)
    held = next(
        n for n in range(300) if rule.by_rule(Document("rows", f"rows.jsonl:{n + 1}", text(n)))
    )
    copy = text(held, 5 + held % 40)
    near = copy.replace(f"#{held}#", "#777777#")
    with file.open("a") as file_stream:
        file_stream.write(json.dumps({"text": copy}) + "\n" + json.dumps({"text": near}) + "\n")
    streams = Streams([str(file)], tiny_tokenizer)
    rows = streams.rows()
    seen = set(first_pass(streams, rows))
    assert held in streams.reserved()
    assert not seen & (streams.reserved() | {777777})
    assert rows.stats()["rows"]["left_out"] >= 2


def test_a_source_too_small_for_the_rule_holds_back_a_group_all_the_same(
    tmp_path: Path, tiny_tokenizer: Any
) -> None:
    streams = Streams([write(tmp_path, "rows.jsonl", 5)], tiny_tokenizer)
    held = streams.reserved()
    assert len(held) == 1
    assert set(first_pass(streams, streams.rows())) == set(range(5)) - held
    lonely = Streams([write(tmp_path, "one.jsonl", 1)], tiny_tokenizer)
    with pytest.raises(InputError, match="nothing to train on"):
        lonely.rows().take(1)


def test_a_custom_source_is_streamed(tiny_tokenizer: Any) -> None:
    @register_source("streamed")
    def streamed(config: Config) -> Any:
        for number in range(60):
            yield Document("streamed", str(number), text(number))

    streams = Streams([], tiny_tokenizer, sources=["streamed"])
    parts = [first_pass(streams, streams.rows(rank, 2)) for rank in range(2)]
    assert set(parts[0]).isdisjoint(parts[1])
    assert len(parts[0]) + len(parts[1]) >= 60 - 6


@pytest.mark.parametrize("trains", [False, True])
def test_an_official_validation_part_is_held_back_only_beside_a_training_part(
    trains: bool, tiny_tokenizer: Any
) -> None:
    @register_source("official")
    def official(config: Config) -> Any:
        for number in range(60):
            part = "train" if trains and number >= 40 else "validation"
            yield Document("official", str(number), text(number), split=part)

    streams = Streams([], tiny_tokenizer, sources=["official"])
    seen = set(first_pass(streams, streams.rows()))
    assert (seen <= set(range(40, 60))) if trains else (len(seen) >= 60 - 6)
    assert seen and not seen & streams.reserved()


def test_memory_stays_flat_as_the_corpus_grows(
    tmp_path: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def peak(count: int) -> int:
        streams = Streams([write(tmp_path, f"{count}.jsonl", count)], tiny_tokenizer)
        rows = streams.rows()
        rows.take(40)
        tracemalloc.start()
        while not any(place["passes"] for place in rows.stats().values()):
            rows.take(40)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(2000) < 1.2 * peak(400)


def test_targets_are_every_token_of_the_documents(tmp_path: Path, tiny_tokenizer: Any) -> None:
    streams = Streams([write(tmp_path, "rows.jsonl", 30)], tiny_tokenizer)
    rows = streams.rows()
    count = 0
    while True:
        part = rows.take(1)
        if rows.stats()["rows"]["passes"]:
            break
        count += int((part.targets != IGNORE).sum())
    held = streams.reserved()
    wanted = [text(n, 5 + n % 40) for n in range(30) if n not in held]
    lengths = [len(tiny_tokenizer(said)["input_ids"]) + 1 for said in wanted]
    assert count == sum(lengths)
