"""Named sources through the real ``datasets`` client, against a hub on loopback.

Each case runs in a process of its own, since the clients read their addresses when imported.
"""

from __future__ import annotations

import io
import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hub_server import HubServer

pytest.importorskip("datasets")
pytestmark = pytest.mark.slow

_RUN = """
import json, sys
from creativewritinggpt.config.run import Config
from creativewritinggpt.data.corpus import load_corpus
from creativewritinggpt.data.sources import hub
from creativewritinggpt.errors import UserError
settings, wait = json.loads(sys.argv[1])
hub.WAIT_SECONDS = wait
try:
    corpus = load_corpus(Config(**settings))
    answer = {"reports": {n: r.to_dict() for n, r in corpus.reports.items()},
              "missing": corpus.missing,
              "train": [[d.prompt, d.title, d.text] for d in corpus.train],
              "validation": [[d.prompt, d.title, d.text] for d in corpus.validation]}
except UserError as error:
    answer = {"error": error.message, "advice": error.advice, "code": error.exit_code}
sys.stdout.write(json.dumps(answer))
"""

_STREAM = """
import json, sys
from creativewritinggpt.config.run import Config
from creativewritinggpt.data.corpus import open_named
from creativewritinggpt.data.document import Reading, SourceReport
from creativewritinggpt.data.sources import hub
settings, parts = json.loads(sys.argv[1])
hub.WAIT_SECONDS = 0.05
config = Config(streaming=True, max_steps=1, **settings)
answer = []
for shard, num_shards, start in parts:
    [source] = open_named(config.sources[0], config)
    reading = Reading(SourceReport("x"), shard=shard, num_shards=num_shards, start=start)
    found = [[reading.at, d.prompt or d.title, d.split] for d in source.read(reading)]
    answer.append({"documents": found, "origin": reading.report.origin})
sys.stdout.write(json.dumps(answer))
"""


def load(url: str, tmp_path: Path, **settings: Any) -> dict[str, Any]:
    """What ``load_corpus`` gives in a new process whose hub is at ``url``."""
    answer: dict[str, Any] = answered(url, tmp_path, _RUN, settings, 0.05)
    return answer


def streamed(url: str, tmp_path: Path, parts: list[list[int]], **settings: Any) -> Any:
    """What streaming reads, for each of ``[shard, num_shards, start]``."""
    return answered(url, tmp_path, _STREAM, settings, parts)


def answered(url: str, tmp_path: Path, script: str, *arguments: Any) -> Any:
    environment = {
        **os.environ,
        "HF_ENDPOINT": url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "0",
        "CWGPT_CACHE": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def parquet(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, buffer, row_group_size=40, compression="none")
    return buffer.getvalue()


VOCABULARY = [f"{a}{b}{c}" for a in "bdfklmnprst" for b in "aeiou" for c in "bdfklmnprst"]


def words(seed: int, count: int = 40) -> str:
    return " ".join(random.Random(seed).choices(VOCABULARY, k=count))


def stories(start: int, count: int) -> list[dict[str, Any]]:
    return [
        {"prompt": f"[ WP ] Prompt {i} .\n", "story": f"{words(i)} ."}
        for i in range(start, start + count)
    ]


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.add(
            "datasets",
            "euclaise/writingprompts",
            {
                "data/train-00000-of-00002.parquet": parquet(stories(0, 200)),
                "data/train-00001-of-00002.parquet": parquet(stories(200, 200)),
                "data/validation-00000-of-00001.parquet": parquet(stories(400, 60)),
            },
        )
        yield server


def test_a_source_is_streamed_with_its_official_split_and_found_again(
    hub: HubServer, tmp_path: Path
) -> None:
    found = load(hub.url, tmp_path, sources=["writingprompts"], train_size=90, val_size=9)
    report = found["reports"]["writingprompts"]
    assert (report["train"], report["validation"]) == (90, 9)
    assert found["train"][0][0] == "Prompt 0." and found["validation"][0][0].startswith("Prompt 4")
    commit = hub.repositories["datasets", "euclaise/writingprompts"].commit
    assert report["origin"]["revision"] == commit
    # What is not needed is not fetched.
    assert not any("train-00001" in request for request in hub.requests)
    hub.requests.clear()
    assert load(hub.url, tmp_path, sources=["writingprompts"], train_size=90, val_size=9) == found
    assert not any(".parquet" in request for request in hub.requests)
    # Nor is the hub asked for what is known, when it is away.
    gone = f"http://127.0.0.1:{free_port()}"
    assert load(gone, tmp_path, sources=["writingprompts"], train_size=90, val_size=9) == found


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def test_a_connection_that_breaks_in_the_middle_costs_nothing(
    hub: HubServer, tmp_path: Path
) -> None:
    whole = load(hub.url, tmp_path / "whole", sources=["writingprompts"])
    repository = hub.repositories["datasets", "euclaise/writingprompts"]
    repository.breaks["data/train-00001-of-00002.parquet"] = 2
    broken = load(hub.url, tmp_path / "broken", sources=["writingprompts"])
    assert repository.breaks["data/train-00001-of-00002.parquet"] == 0
    assert broken["train"] == whole["train"] and len(whole["train"]) == 400
    assert broken["validation"] == whole["validation"]


def test_a_streamed_data_set_is_dealt_out_by_files_and_taken_up_anywhere(
    hub: HubServer, tmp_path: Path
) -> None:
    repository = hub.repositories["datasets", "euclaise/writingprompts"]
    repository.breaks["data/train-00001-of-00002.parquet"] = 1
    start = 2 << 40
    parts = [[0, 1, 0], [0, 1, 9 << 40], [0, 1, start + 1]]
    parts += [[shard, shards, 0] for shards in (2, 3) for shard in range(shards)]
    found = streamed(hub.url, tmp_path, parts, sources=["writingprompts"])
    assert found[0]["origin"]["revision"] == repository.commit
    documents, none, rest, *shared = [part["documents"] for part in found]
    assert [prompt for _, prompt, side in documents if side == "train"] == [
        f"Prompt {i}." for i in range(400)
    ]
    assert none == []
    # From any place on, the rest comes.
    assert [at for at, *_ in documents if at >= start][0] == start
    assert rest == [entry for entry in documents if entry[0] > start]
    # Two processes read a file of the training split each, three share out the rows of all.
    for parted in (shared[:2], shared[2:]):
        prompts = [prompt for part in parted for _, prompt, _ in part]
        assert sorted(prompts) == sorted(prompt for _, prompt, _ in documents)
    assert {at >> 40 for at, *_ in shared[1]} == {2}


def test_a_hub_that_can_not_be_reached_is_said_and_can_be_skipped(tmp_path: Path) -> None:
    gone = f"http://127.0.0.1:{free_port()}"
    failed = load(gone, tmp_path, sources=["rocstories", "sample"])
    assert failed["code"] == 1 and "rocstories: the hub can't be reached" in failed["error"]
    assert "--skip-missing" in failed["advice"] and "rocstories=PATH" in failed["advice"]
    skipped = load(gone, tmp_path, sources=["rocstories", "sample"], skip_missing=True)
    assert "can't be reached" in skipped["missing"]["rocstories"]
    assert skipped["reports"]["wikitext"]["train"] > 0


def test_data_sets_that_can_not_be_had_are_named(hub: HubServer, tmp_path: Path) -> None:
    failed = load(hub.url, tmp_path, sources=["openwebtext"])
    assert failed["error"] == "openwebtext: the hub has no data set Skylion007/openwebtext"
    files = {"data/train-00000-of-00001.parquet": parquet(stories(0, 50))}
    hub.add("datasets", "Skylion007/openwebtext", files, gated=True)
    assert "only to those" in load(hub.url, tmp_path, sources=["openwebtext"])["error"]
    hub.add("datasets", "Skylion007/openwebtext", files)
    failed = load(hub.url, tmp_path, sources=["openwebtext"])
    assert "columns that are not known here: prompt, story" in failed["error"]
    whole = parquet(stories(0, 50))
    hub.add("datasets", "Ximing/ROCStories", {"data/train-00000-of-00001.parquet": whole[:-50]})
    failed = load(hub.url, tmp_path, sources=["rocstories"])
    assert failed["code"] == 1 and "could not be read" in failed["error"]


def test_the_other_sources_are_read_in_their_forms(hub: HubServer, tmp_path: Path) -> None:
    lines = [
        {"text": text}
        for i in range(30)
        for text in (
            "",
            f" = Title {i} = \n",
            "",
            f" {words(i, 80)} . \n",
            f" {words(i + 99)} . \n",
        )
    ]
    hub.add(
        "datasets",
        "Salesforce/wikitext",
        {
            "README.md": (
                b"---\nconfigs:\n- config_name: wikitext-103-raw-v1\n  data_files:\n"
                b"  - split: train\n    path: wikitext-103-raw-v1/train-*\n"
                b"  - split: validation\n    path: wikitext-103-raw-v1/validation-*\n---\n"
            ),
            "wikitext-103-raw-v1/train-00000-of-00001.parquet": parquet(lines),
            "wikitext-103-raw-v1/validation-00000-of-00001.parquet": parquet(
                [{"text": " = Held = \n"}, {"text": f" {words(7777, 90)} . \n"}]
            ),
        },
    )
    pages = [
        {"text": " ".join(f"{words(500 + 50 * i + j, 12)}." for j in range(12))} for i in range(40)
    ]
    hub.add("datasets", "Skylion007/openwebtext", {"plain/train-00000.parquet": parquet(pages)})
    rows = [
        {"prompt": f"{words(9000 + i, 8)}.", "continuation": f"{words(8000 + i, 30)}."}
        for i in range(40)
    ]
    hub.add("datasets", "Ximing/ROCStories", {"data/train-00000-of-00001.parquet": parquet(rows)})
    found = load(
        hub.url,
        tmp_path,
        sources=["wikitext", "openwebtext", "rocstories"],
        train_size=60,
        val_size=9,
    )
    assert "error" not in found, found
    reports = found["reports"]
    assert (reports["wikitext"]["train"], reports["wikitext"]["validation"]) == (20, 1)
    assert reports["rocstories"]["documents"] == 23
    assert [title for _, title, _ in found["validation"] if title] == ["Held"]
    assert reports["openwebtext"]["train"] > 5
