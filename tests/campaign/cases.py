"""Names that differ in case: two files, or one where the file system says so.

The file system is that of the temporary folder: ``TMPDIR`` names another one, as exFAT, NTFS or
one of macOS. Where names are one, a second command under the other name must do what it does
under the same name again; where they are two, the first file stays and the second is as the first.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import material, scenarios
from .frame import Bench, Ended, Fault, Trial, one_line
from .scenarios import CPU

NAMES = ("Tale-é.json", "TALE-É.json")
WRITERS = ("story", "out", "run", "results", "export")
"""Commands that write under a name."""


def words_for(bench: Bench, what: str, name: str) -> list[object]:
    """The words of a command that reads or writes a file or folder of this name."""
    model = material.model(bench)
    if what == "story":
        return ["generate", f"--model={material.parrot(bench)}", f"--story=./{name}",
                "--max-new-tokens=3", "--seed=1", *CPU]  # fmt: skip
    if what == "out":
        return ["generate", f"--prompts={material.prompts(bench)}", f"--model={model}",
                f"--out=./{name}", "--max-new-tokens=3", "--seed=1", *CPU]  # fmt: skip
    if what == "text":
        return ["data", "inspect", f"./{name}"]
    if what == "run":
        return ["train", f"./{name}", f"--model-name={model}", f"--output-dir=./run-{name}",
                "--max-length=48", "--batch-size=4", "--max-steps=1", "--lora-r=4", "--patience=0",
                *CPU]  # fmt: skip
    if what == "results":
        return ["analyze", "The lamp", f"--model={model}", "--methods=occlusion", "--unit=word",
                f"--results-dir=./{name}", *CPU]  # fmt: skip
    return ["export", material.model(bench, "llama"), "--to=merged", "--verify=1",
            f"--out=./{name}", *CPU]  # fmt: skip


def alike(folder: Path) -> bool:
    """Whether the file system takes names that differ in case for one."""
    probe = folder / "probe-é"
    probe.touch()
    found = (folder / "PROBE-É").exists()
    probe.unlink()
    return found


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


def _plain(value: Any) -> Any:
    """A record with the case of its texts away."""
    if isinstance(value, dict):
        return {_folded(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return _folded(value) if isinstance(value, str) else value


def _files(folder: Path) -> list[Path]:
    return [
        path for path in folder.rglob("*")
        if "cache" not in path.relative_to(folder).parts and path.is_file()
    ]  # fmt: skip


def _record(text: str) -> Any:
    """JSON, or JSON lines."""
    try:
        return json.loads(text)
    except ValueError:
        return [json.loads(line) for line in text.splitlines()]


def _same(one: Path, other: Path) -> None:
    """Two folders hold the same files, but for the case of names and for times."""
    left, right = (
        {_folded(path.relative_to(place).as_posix()): path for path in _files(place)}
        for place in (one, other)
    )
    if left.keys() != right.keys():
        raise Fault(f"there are {sorted(left)}, not {sorted(right)}")
    for name, path in left.items():
        twin = right[name]
        if path.suffix == ".safetensors" and path.read_bytes() != twin.read_bytes():
            raise Fault(f"{name} is not the same")
        if path.suffix != ".json" or "run-" in name:
            continue
        texts = [
            place.read_text("utf-8").replace(str(where), "")
            for place, where in ((path, one), (twin, other))
        ]
        if not scenarios.near(*(_plain(scenarios.steady(_record(text))) for text in texts)):
            raise Fault(f"{name} does not say the same")


def _command(bench: Bench, what: str, name: str, folder: Path) -> Ended:
    if not (folder / "cache").exists():
        material.cache(folder)
    if what == "run" and not (folder / name).exists():
        (folder / name).write_bytes(material.stories(bench).read_bytes())
    return bench.command(
        words_for(bench, what, name), folder, stdin=b"Hello\n/save\n",
        environment={"CWGPT_CACHE": str(folder / "cache")},
    )  # fmt: skip


def written(bench: Bench, what: str, folder: Path) -> None:
    """A command twice, under names that differ in case."""
    one, other = folder / "one", folder / "other"
    one.mkdir()
    other.mkdir()
    first = _command(bench, what, NAMES[0], one)
    if first.code:
        raise Fault(f"it refuses: {one_line(first, talks=what == 'story')}")
    before = {path: path.read_bytes() for path in _files(one)}
    second = _command(bench, what, NAMES[1], one)
    said = one_line(second, talks=what == "story")
    if alike(folder):
        _command(bench, what, NAMES[0], other)
        again = _command(bench, what, NAMES[0], other)
        if again.code != second.code or _folded(said) != _folded(one_line(again, talks=True)):
            raise Fault(f"exit code {second.code} ({said}), with the same name {again.code}")
        _same(one, other)
    else:
        if second.code:
            raise Fault(f"the other file is refused: {said}")
        if any(path.read_bytes() != content for path, content in before.items()):
            raise Fault("the first file has changed")
        alone = _command(bench, what, NAMES[1], other)
        if alone.code:
            raise Fault(f"alone it is refused: {one_line(alone, talks=True)}")
        if len(_files(one)) != 2 * len(_files(other)):
            raise Fault(f"there are {sorted(map(str, _files(one)))}")
    if left := scenarios.left_over(folder):
        raise Fault(f"there is still {', '.join(left)}")


def in_a_session(bench: Bench, folder: Path) -> None:
    """A session is told the name of its own story in another case."""
    from creativewritinggpt.story.file import read_story

    material.cache(folder)
    name, other = NAMES
    lines = f"Hello\n/load {other}\n/export {other}\n/save {other}\nMore\n/save\n"
    ended = bench.command(
        words_for(bench, "story", name), folder, stdin=lines.encode(),
        environment={"CWGPT_CACHE": str(folder / "cache")},
    )  # fmt: skip
    one_line(ended, talks=True)
    said = ended.out + ended.err
    if alike(folder):
        for part in ("is the story that is open", "is the story's own file", "is there already"):
            if part not in said:
                raise Fault(f"it does not say {part!r}: {said[-500:]!r}")
        text = read_story(folder / name).text
        if "Hello" not in text or "More" not in text:
            raise Fault(f"the story is {text!r}")
    elif not {name, other} <= set(os.listdir(folder)):
        raise Fault(f"there are {sorted(os.listdir(folder))}")


def two_sessions(bench: Bench, folder: Path) -> None:
    """A second session with the same story in another case is refused while the first has it."""
    material.cache(folder)
    holder = folder / "held"

    def body() -> int:
        from creativewritinggpt.story.file import StoryFile
        from creativewritinggpt.story.tree import Story

        file = StoryFile(folder / NAMES[0])
        file.open()
        file.save(Story())
        holder.touch()
        time.sleep(60)
        return 0

    child = bench.start(body, folder)
    until = time.monotonic() + 20
    while not holder.exists() and time.monotonic() < until:
        time.sleep(0.02)
    ended = bench.command(
        words_for(bench, "story", NAMES[1]), folder, stdin=b"Hello\n",
        environment={"CWGPT_CACHE": str(folder / "cache")},
    )  # fmt: skip
    child.send(signal.SIGKILL)
    child.wait()
    said = one_line(ended, talks=True) or ended.out + ended.err
    if alike(folder) and "another session" not in said:
        raise Fault(f"both have it: {said[-300:]!r}")
    if not alike(folder) and ended.code:
        raise Fault(f"another file is refused: {said}")


def counted_once(bench: Bench, folder: Path) -> None:
    """A file that is named twice, in two cases, is counted once."""
    material.cache(folder)
    environment = {"CWGPT_CACHE": str(folder / "cache")}
    wrote = bench.command(
        words_for(bench, "story", NAMES[0]), folder, stdin=b"Hello\n/alt 2\n/pick 1\n/save\n",
        environment=environment,
    )  # fmt: skip
    one_line(wrote, talks=True)
    names = NAMES if alike(folder) else (NAMES[0], f"./{NAMES[0]}")
    counts = []
    for files in ((NAMES[0],), names):
        ended = bench.command(["choices", *files, "--json"], folder, environment=environment)
        if said := one_line(ended):
            raise Fault(said)
        record = json.loads(ended.out)
        counts.append({key: value for key, value in record.items() if key != "files"})
    if counts[0] != counts[1]:
        raise Fault(f"{counts[0]} once, {counts[1]} twice")


def trials(bench: Bench) -> Iterator[Trial]:
    """All of them."""
    for what in WRITERS:
        yield Trial(f"case/{what}", functools.partial(written, bench, what))
    yield Trial("case/session", functools.partial(in_a_session, bench))
    yield Trial("case/two-sessions", functools.partial(two_sessions, bench))
    yield Trial("case/choices", functools.partial(counted_once, bench))
