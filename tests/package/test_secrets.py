"""No token, key or name of the home folder gets into what is written or said."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from corpora import write_stories

from creativewritinggpt.cli.main import main
from creativewritinggpt.files import from_home, to_home

SECRETS = {
    "HF_TOKEN": "hf_MARKEDSECRETofthehub0000000000000000",
    "HUGGING_FACE_HUB_TOKEN": "hf_MARKEDSECRETofthehubtoo000000000000",
    "CWGPT_API_KEY": "sk-MARKEDSECRETofthisserver-0000000000",
    "OPENAI_API_KEY": "sk-MARKEDSECRETofanother-000000000000",
    "AWS_SECRET_ACCESS_KEY": "MARKEDSECRETofacloud00000000000000000",
}
USER = "markeduser"
FAST = ["--device", "cpu", "--precision", "fp32", "--num-workers", "1"]
PLACES = {
    "adapter_config.json": "base_model_name_or_path",
    "manifest.json": "",
}
"""Files that lead back to what lies on this machine, by what may name a place in them."""


@pytest.fixture
def home(tmp_path: Path, tiny_folder: Callable[[str], Path], monkeypatch: Any) -> Path:
    """A home folder with a model and texts, and the working folder in it."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / USER
    (folder / "work").mkdir(parents=True)
    (folder / "models").mkdir()
    tiny_folder("gpt2").rename(folder / "models" / "tiny")
    write_stories(folder / "stories.jsonl", count=24)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setenv("CWGPT_CACHE", str(folder / "cache" / "cwgpt"))
    monkeypatch.chdir(folder / "work")
    return folder


def found_in(text: str, where: str, home: bool = True) -> list[str]:
    """What must not stand in a text."""
    found = [f"{where}: a secret" for mark in SECRETS.values() if mark in text]
    if home and USER in text:
        at = text.index(USER)
        found.append(f"{where}: {text[max(0, at - 90) : at + 60]!r}")
    return found


def kept(folder: Path, home: bool = True) -> list[str]:
    """What must not stand in the files below a folder."""
    found: list[str] = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            inside = path.relative_to(folder).parts
            # Checkpoints are read by this program alone, and only where they were made.
            local = path.name in PLACES or "checkpoints" in inside
            text = path.read_bytes().decode("utf-8", "replace")
            found += found_in(text, "/".join(inside), home and not local)
    return found


@pytest.mark.slow
def test_no_secret_and_no_home_folder_is_in_what_is_written(home: Path, capsys: Any) -> None:
    model, texts = str(home / "models" / "tiny"), str(home / "stories.jsonl")
    work = home / "work"
    best = str(work / "out" / "best_model")
    given = ["--output-dir", str(work / "out"), *FAST]
    lines = [
        ["train", texts, "--model-name", model, *given, "--max-steps", "2", "--max-length", "64"],
        ["train", texts, "--model-name", model, *given, "--max-steps", "3", "--max-length", "64",
         "--resume", "--force"],
        ["generate", "The lamp", "--model", best, "--max-new-tokens", "4", "--json", *FAST],
        ["evaluate", texts, "--model", best, *given],
        ["analyze", "The lamp went out, and the captain laughed.", "--model", best, "--results-dir",
         str(work / "analysis"), *FAST],
        ["export", best, "--to", "merged", "--out", str(work / "merged"), *FAST],
        ["export", best, "--to", "hub", "--out", str(work / "hub"), *FAST],
        ["data", "inspect", texts, "--model-name", model, "--json"],
    ]  # fmt: skip
    found: list[str] = []
    for words in lines:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["cwgpt", *words])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
            code = main(words)
        said = capsys.readouterr()
        if code:
            found.append(f"{words[0]} failed: {said.err}")
        # What is said to the user may name places of the user; secrets never.
        found += found_in(said.out + said.err, f"said by {words[0]}", home=False)
    found += kept(work)
    found += kept(home / "cache", home=False)
    assert found == [], "\n".join(found)
    run = json.loads((work / "out" / "best_model" / "run.json").read_text())
    assert run["base"]["base_name"] == "~/models/tiny" and "~/stories.jsonl" in run["command"]
    assert (work / "merged" / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_key_is_not_in_what_the_server_says(home: Path) -> None:
    command = [sys.executable, "-m", "creativewritinggpt", "serve", "--port", "0",
               "--device", "cpu", "--model", str(home / "models" / "tiny"), "--debug"]  # fmt: skip
    with (home / "log").open("w+") as log:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            address = re.search(r"at (http://\S+)", line)
            assert address, (home / "log").read_text()
            answers = line
            for key in (SECRETS["CWGPT_API_KEY"], "wrong" + SECRETS["CWGPT_API_KEY"]):
                for path in ("/v1/models", "/stats", "/metrics", "/v1/nothing", "/version"):
                    request = urllib.request.Request(
                        f"{address[1]}{path}", headers={"Authorization": f"Bearer {key}"}
                    )
                    try:
                        answers += urllib.request.urlopen(request, timeout=20).read().decode()
                    except urllib.error.HTTPError as error:
                        answers += error.read().decode()
        finally:
            server.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(20)
            server.kill()
        log.seek(0)
        assert found_in(answers + log.read(), "serve", home=False) == []
    assert USER not in answers


@pytest.mark.parametrize(
    ("path", "said"),
    [("{h}/a.txt", "~/a.txt"), ("{h}", "~"), ("{h}er/a", "{h}er/a"), ("x={h}/a", "x=~/a"),
     ("/mnt{h}/a", "/mnt{h}/a"), ("a", "a"), ("~/a", "~/a"),
     ("--out={h}/b/../c", "--out=~/b/../c")],
)  # fmt: skip
def test_a_path_below_the_home_folder_begins_with_a_tilde(
    path: str, said: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    path, said = path.format(h=tmp_path), said.format(h=tmp_path)
    assert to_home(path) == said
    assert to_home({"a": [path, 5, None]}) == {"a": [said, 5, None]}
    if "=" not in path:
        assert from_home(to_home(path)) == Path(os.path.expanduser(path))
