"""Damaged files: bit flips, truncation and rubbish in every kind of file that is read.

Whatever a file holds, the command that reads it ends in success or in one line, and a story that
can't be read stays as it is.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import json
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from . import material, scenarios
from .frame import Bench, Fault, Part, Trial, command, one_line
from .scenarios import CPU

EACH = 40
"""Damages of each kind of file."""


def damaged(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    """What was done to a file's content, and the content then."""
    size = len(content)
    # Heads decide how the rest is read.
    place = min(draw.choice([draw.randrange(size), int(draw.random() ** 4 * size)]), size - 1)
    kind = draw.choice(["flip", "flip", "flip", "cut", "cut", "zeros", "empty", "rubbish", "twice"])
    if kind == "flip":
        bit = 1 << draw.randrange(8)
        return f"bit {bit} of byte {place} flipped", b"".join(
            [content[:place], bytes([content[place] ^ bit]), content[place + 1 :]]
        )
    if kind == "cut":
        return f"cut at byte {place}", content[:place]
    if kind == "zeros":
        return f"zeros at {place}", content[:place] + bytes(min(4096, size - place)) + content[
            place + 4096 :
        ]  # fmt: skip
    if kind == "empty":
        return "empty", b""
    if kind == "rubbish":
        return f"rubbish at {place}", content[:place] + draw.randbytes(64) + content[place + 64 :]
    return "twice", content + content


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: Its name in the trials.
        make: Lays it out in a folder made once; the paths of the files, one of which is damaged.
        read: The body of the process that reads the folder.
        kept: Whether a damaged file must not be changed.
    """

    name: str
    make: Callable[[Bench, Path], list[str]]
    read: Callable[[Bench, Path], Callable[[], int]]
    kept: bool = False


def _copied(files: list[str], family: str = "gpt2") -> Callable[[Bench, Path], list[str]]:
    def make(bench: Bench, folder: Path) -> list[str]:
        shutil.copytree(material.model(bench, family), folder / "model")
        return [f"model/{name}" for name in files]

    return make


def _trained(bench: Bench, folder: Path) -> Path:
    """The folder of a training, made once."""

    def make(place: Path) -> Path:
        material.cache(place)
        (place / "out").mkdir()
        ended = bench.fork(scenarios.training().first(bench, place), place)
        if ended.code:
            raise Fault(f"the training failed: {ended.err[-300:]}")
        return place

    found: Path = bench.shared("trained", make)
    return found


def _run_files(*names: str) -> Callable[[Bench, Path], list[str]]:
    def make(bench: Bench, folder: Path) -> list[str]:
        shutil.copytree(_trained(bench, folder) / "out", folder / "out")
        return list(names)

    return make


def _generate(*more: str, model: str = "model") -> Callable[[Bench, Path], Callable[[], int]]:
    def read(bench: Bench, folder: Path) -> Callable[[], int]:
        words = ["generate", "The lamp", f"--model={model}", "--max-new-tokens=3", "--seed=1"]
        return command([*words, *CPU, *more])

    return read


def _resumed(bench: Bench, folder: Path) -> Callable[[], int]:
    return scenarios.training("x", "--force").again(bench, folder)


def _cache(bench: Bench, folder: Path) -> list[str]:
    shutil.copytree(_trained(bench, folder) / "cache", folder / "cache", dirs_exist_ok=True)
    return sorted(
        str(path.relative_to(folder)) for path in (folder / "cache").rglob("*")
        if path.is_file() and not path.name.endswith(".lock")
    )  # fmt: skip


def _fresh(bench: Bench, folder: Path) -> Callable[[], int]:
    (folder / "out").mkdir()
    return scenarios.training().first(bench, folder)


def _story(bench: Bench, folder: Path) -> list[str]:
    from creativewritinggpt.files import write_text
    from creativewritinggpt.story.file import dump
    from creativewritinggpt.story.tree import Story

    story = Story()
    for number in range(6):
        story.write(f"The lamp of house {number} went out. “Who is there?” she asked. ")
    write_text(folder / "story.json", dump(story))
    return ["story.json"]


def _session(bench: Bench, folder: Path) -> Callable[[], int]:
    return command([
        "generate", f"--model={material.parrot(bench)}", "--story=story.json",
        "--max-new-tokens=3", *CPU,
    ])  # fmt: skip


def _gguf(bench: Bench, folder: Path) -> list[str]:
    shutil.copy(material.starter(bench) / "tiny.gguf", folder)
    return ["tiny.gguf"]


def _read_gguf(bench: Bench, folder: Path) -> Callable[[], int]:
    def body() -> int:
        from creativewritinggpt.errors import UserError
        from creativewritinggpt.models.gguf_model import GGUFModel

        try:
            model = GGUFModel(folder / "tiny.gguf")
            for name in model:
                model[name]
        except UserError as error:
            sys.stderr.write(f"error: {error.message}\n")
            return error.exit_code
        return 0

    return body


def _wheel(bench: Bench, folder: Path) -> list[str]:
    from starter_files import WHEEL_NAME

    shutil.copy(material.starter(bench) / WHEEL_NAME, folder)
    return [WHEEL_NAME]


def _starter(bench: Bench, folder: Path) -> Callable[[], int]:
    from starter_files import WHEEL_NAME

    good = material.starter(bench)

    def body() -> int:
        from creativewritinggpt.files import file_sha256
        from creativewritinggpt.models import starter

        starter.GGUF_SHA256 = file_sha256(good / "tiny.gguf")
        return _generate(f"--starter-file={folder / WHEEL_NAME}", model="starter")(bench, folder)()

    return body


def _texts(ending: str) -> Callable[[Bench, Path], list[str]]:
    def make(bench: Bench, folder: Path) -> list[str]:
        source = material.stories(bench).read_bytes()
        rows = [json.loads(line) for line in source.splitlines()]
        path = folder / f"stories{ending}"
        if ending == ".parquet":

            def write(place: Path) -> None:
                import pyarrow
                import pyarrow.parquet

                pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), place / path.name)

            shutil.copy(material.made(bench, "parquet", write) / path.name, path)
        elif ending == ".jsonl.gz":
            path.write_bytes(gzip.compress(source))
        elif ending == ".jsonl":
            path.write_bytes(source)
        else:
            path.write_text("\n\n".join(row["story"] for row in rows), "utf-8")
        return [path.name]

    return make


def _inspect(bench: Bench, folder: Path) -> Callable[[], int]:
    [path] = folder.glob("stories*")
    return command(["data", "inspect", path.name, "--cache-dir=cache"])


def _evaluation(bench: Bench, folder: Path) -> list[str]:
    shutil.copytree(_trained(bench, folder) / "out", folder / "out")
    return ["out/manifest.json", "out/validation.jsonl", "out/best_model/run.json"]


def _evaluate(bench: Bench, folder: Path) -> Callable[[], int]:
    return command([
        "evaluate", "--model=out/best_model", "--texts=0", "--window=48", "--rank=0", "--order=0",
        "--no-originality", "--forgetting-words=0", "--output-dir=out", *CPU,
    ])  # fmt: skip


def _export(bench: Bench, folder: Path) -> Callable[[], int]:
    return command(["export", "out/best_model", "--to=hub", "--out=hub", "--license=mit",
                    "--verify=1", *CPU])  # fmt: skip


def _preset(bench: Bench, folder: Path) -> list[str]:
    (folder / "preset.yaml").write_text("temperature: 0.9\ntop_p: 0.95\nbanned:\n  - lamp\n")
    shutil.copytree(material.model(bench), folder / "model")
    return ["preset.yaml"]


def _lines(bench: Bench, folder: Path) -> list[str]:
    shutil.copytree(material.model(bench), folder / "model")
    from .kills import reference

    source = reference(bench, scenarios.GENERATE).folder / "out" / "texts.jsonl"
    (folder / "out").mkdir()
    shutil.copy(source, folder / "out")
    return ["out/texts.jsonl"]


KINDS = (
    Kind("model", _copied(["model.safetensors", "config.json", "tokenizer.json",
                           "tokenizer_config.json", "generation_config.json"]), _generate()),
    Kind("adapter", _run_files("out/best_model/adapter_model.safetensors",
                               "out/best_model/adapter_config.json", "out/best_model/run.json"),
         _generate(model="out/best_model")),
    Kind("checkpoint", _run_files(*(f"out/checkpoints/step-3/{name}" for name in
         ("state.json", "weights.safetensors", "optimizer.safetensors")), "out/metrics.jsonl"),
         _resumed),
    Kind("cache", _cache, _fresh),
    Kind("story", _story, _session, kept=True),
    Kind("gguf", _gguf, _read_gguf),
    Kind("starter", _wheel, _starter),
    Kind("parquet", _texts(".parquet"), _inspect),
    Kind("jsonl", _texts(".jsonl"), _inspect),
    Kind("gzip", _texts(".jsonl.gz"), _inspect),
    Kind("text", _texts(".txt"), _inspect),
    Kind("evaluation", _evaluation, _evaluate),
    Kind("export", _evaluation, _export),
    Kind("preset", _preset, _generate("--preset=preset.yaml")),
    Kind("texts", _lines, lambda bench, folder: scenarios.GENERATE.again(bench, folder)),
)  # fmt: skip


def trial(bench: Bench, kind: Kind, name: str, folder: Path) -> None:
    """A file of a kind is damaged, and read."""
    draw = bench.draw(name)
    material.cache(folder)
    files = kind.make(bench, folder)
    path = folder / draw.choice(files)
    if not path.exists():
        raise Fault(f"{path.name} is not there to be damaged")
    what, content = damaged(path.read_bytes(), draw)
    path.write_bytes(content)
    environment = {"CWGPT_CACHE": str(folder / "cache")}
    ended = bench.fork(
        kind.read(bench, folder), folder, environment=environment, limit=60,
        stdin=b"/stats\n" if kind.kept else b"",
    )  # fmt: skip
    try:
        said = one_line(ended, talks=kind.kept)
    except Fault as fault:
        raise Fault(f"{path.relative_to(folder)}, {what}: {fault}") from fault
    if kind.kept and ended.code != 0 and path.read_bytes() != content:
        raise Fault(f"{path.name}, {what}: refused ({said}), and changed")


def trials(bench: Bench) -> Iterator[Trial]:
    """Damages of all kinds in turn."""
    for number in range(max(1, round(EACH * bench.rounds))):
        for kind in KINDS:
            name = f"damage/{kind.name}/{number}"
            yield Trial(name, functools.partial(trial, bench, kind, name), short=number == 0 and
                        kind.name in ("story", "checkpoint", "model"))  # fmt: skip


PART = Part(
    "damage", "bit flips, truncation and rubbish in every kind of file that is read", trials
)
