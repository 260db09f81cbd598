"""What is killed and disturbed: each command that writes, how it goes on, what must be then."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import material
from .frame import Bench, Fault, command

TEMPORARY = re.compile(r"\.(new|old|fetch|weights)\.\w{8}$|\.\w{8}\.tmp(\.\w+)?$|\.partial|\.tmp$")
"""Names of temporary files and folders."""
CPU = ("--device=cpu", "--precision=fp32", "--num-workers=1")
VARYING = re.compile(
    r"seconds|created|command|hardware|per_second|peak_memory|mtime|^source$|speed|timing"
)
"""Keys of records whose values differ from run to run."""


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A command that writes.

    Attributes:
        name: Its name in the trials.
        watch: Folders below the working folder whose writing calls count, made beforehand if they
            end in ``/``.
        first: The body of the disturbed process.
        again: The body of the process that goes on afterwards.
        whole: Raises :class:`Fault` where a file in the folder is broken.
        same: Raises :class:`Fault` where the result is not that of an undisturbed run.
        stdin: What both read.
        talks: Whether errors are part of what it says, as in a session, and it goes on.
        short: Number of enumerated calls that the short form takes.
    """

    name: str
    watch: tuple[str, ...]
    first: Callable[[Bench, Path], Callable[[], int]]
    again: Callable[[Bench, Path], Callable[[], int]]
    whole: Callable[[Path], None]
    same: Callable[[Path, Path], None]
    stdin: bytes = b""
    talks: bool = False
    short: int = 1


def whole_files(folder: Path) -> None:
    """Every JSON, JSON-lines and safetensors file under its final name can be read to its end."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or not path.is_file():
            continue
        try:
            if path.suffix == ".json":
                json.loads(path.read_text("utf-8"))
            elif path.suffix == ".safetensors":
                with safe_open(path, framework="pt") as tensors:
                    for name in tensors.keys():  # noqa: SIM118 - it is no mapping
                        tensors.get_tensor(name)
        except (ValueError, OSError, SafetensorError) as error:
            raise Fault(f"{path.relative_to(folder)} is broken: {error}") from error


def left_over(folder: Path) -> list[str]:
    """Temporary files and folders."""
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if TEMPORARY.search(path.name)
    )


def steady(value: Any) -> Any:
    """A record without what differs from run to run."""
    if isinstance(value, dict):
        return {key: steady(one) for key, one in value.items() if not VARYING.search(key)}
    if isinstance(value, list):
        return [steady(one) for one in value]
    return value


def near(left: Any, right: Any) -> bool:
    """Whether records are equal; numbers may differ as passes over other batches do."""
    if isinstance(left, dict):
        return isinstance(right, dict) and left.keys() == right.keys() and all(
            near(value, right[key]) for key, value in left.items()
        )  # fmt: skip
    if isinstance(left, list):
        return isinstance(right, list) and len(left) == len(right) and all(
            map(near, left, right)
        )  # fmt: skip
    if isinstance(left, float) and isinstance(right, float):
        return math.isclose(left, right, rel_tol=1e-5, abs_tol=1e-6)
    return bool(left == right)


def equal_bytes(one: Path, other: Path, names: Sequence[str]) -> None:
    """Some files are the same, byte by byte."""
    for name in names:
        if not (other / name).exists():
            raise Fault(f"{name} is missing")
        if (one / name).read_bytes() != (other / name).read_bytes():
            raise Fault(f"{name} is not that of an undisturbed run")


def equal_records(one: Path, other: Path, names: Sequence[str]) -> None:
    """Some JSON files are the same but for times, and for the folder they lie in."""
    for name in names:
        if not (other / name).exists():
            raise Fault(f"{name} is missing")
        texts = [
            (place / name).read_text("utf-8").replace(str(place), "") for place in (one, other)
        ]
        if name.endswith(".jsonl"):
            left, right = (
                [steady(json.loads(line)) for line in text.splitlines()] for text in texts
            )
        else:
            left, right = (steady(json.loads(text)) for text in texts)
        if not near(left, right):
            raise Fault(f"{name} is not that of an undisturbed run")


# ---- training


def _train_words(bench: Bench, folder: Path, more: Sequence[str]) -> list[object]:
    return [
        "train", material.stories(bench), f"--model-name={material.model(bench)}",
        f"--output-dir={folder / 'out'}", "--max-length=48", "--batch-size=4", "--max-steps=3",
        "--lora-r=4", "--learning-rate=5e-3", "--patience=0", "--eval-steps=2", "--save-steps=1",
        "--save-total-limit=2", f"--cache-dir={folder / 'cache'}", *CPU, *more,
    ]  # fmt: skip


def _training(words: list[object]) -> Callable[[], int]:
    def body() -> int:
        from creativewritinggpt.training import metrics

        # Drawing the curves takes longer than the training.
        metrics.draw_curves = lambda metrics, path: None
        return command(words)()

    return body


def _same_training(one: Path, other: Path) -> None:
    for name in ("best_model", "final_model"):
        equal_bytes(one / "out" / name, other / "out" / name, ["adapter_model.safetensors"])
    left, right = (json.loads((f / "out" / "metrics.json").read_text()) for f in (one, other))
    for key in ("batch_losses", "val_loss", "train_loss", "learning_rate", "evaluation_steps"):
        if left[key] != right[key]:
            raise Fault(f"{key} of the metrics is not that of an undisturbed run")
    logs = [(f / "out" / "metrics.jsonl").read_text().splitlines() for f in (one, other)]
    if len(logs[0]) != len(logs[1]):
        raise Fault(f"metrics.jsonl has {len(logs[1])} lines, not {len(logs[0])}")


def training(name: str = "training", *more: str) -> Scenario:
    """A training and its ``--resume``."""
    return Scenario(
        name, ("out/", "cache"),
        lambda bench, folder: _training(_train_words(bench, folder, more)),
        lambda bench, folder: _training(_train_words(bench, folder, [*more, "--resume"])),
        whole_files, _same_training,
    )  # fmt: skip


# ---- texts


def _generate(bench: Bench, folder: Path, *more: str) -> Callable[[], int]:
    return command([
        "generate", f"--prompts={material.prompts(bench)}", f"--model={material.model(bench)}",
        f"--out={folder / 'out' / 'texts.jsonl'}", "--n=2", "--max-new-tokens=8", "--seed=1",
        f"--cache-dir={folder / 'cache'}", *CPU, *more,
    ])  # fmt: skip


GENERATE = Scenario(
    "generate", ("out/",),
    _generate,
    lambda bench, folder: _generate(bench, folder, "--resume"),
    whole_files,
    lambda one, other: equal_records(one, other, ["out/texts.jsonl"]),
)  # fmt: skip

LINES = (b"Hello", b"/chapter Two", b"", b"/memory The captain.", b"/undo", b"/alt 2", b"/pick 1",
         b"/branch other", b"More", b"/save")  # fmt: skip


def _session(bench: Bench, folder: Path) -> Callable[[], int]:
    return command([
        "generate", f"--model={material.parrot(bench)}", "--story=stories/s.json",
        "--max-new-tokens=8", "--seed=1", f"--cache-dir={folder / 'cache'}", *CPU,
    ])  # fmt: skip


def _whole_story(folder: Path) -> None:
    from creativewritinggpt.errors import UserError
    from creativewritinggpt.story.file import read_story

    path = folder / "stories" / "s.json"
    if path.exists():
        try:
            read_story(path)
        except UserError as error:
            raise Fault(f"the story is broken: {error}") from error


def _story_went_on(one: Path, other: Path) -> None:
    from creativewritinggpt.story.file import read_story

    text = read_story(other / "stories" / "s.json").text
    if not text.endswith("More" + material.WORDS[:4]) and "More" not in text[-60:]:
        raise Fault(f"the story did not go on after the fault: …{text[-80:]!r}")


SESSION = Scenario(
    "session", ("stories/",), _session, _session, _whole_story, _story_went_on,
    stdin=b"\n".join(LINES) + b"\n", talks=True,
)  # fmt: skip

# ---- evaluation, analysis, export


def _evaluate(bench: Bench, folder: Path) -> Callable[[], int]:
    return command([
        "evaluate", material.stories(bench), f"--model={material.model(bench)}", "--texts=2",
        "--text-tokens=8", "--window=48", "--rank=0", "--order=0", "--no-originality",
        f"--output-dir={folder / 'out'}", f"--cache-dir={folder / 'cache'}", "--max-documents=12",
        "--forgetting-words=0", *CPU,
    ])  # fmt: skip


EVALUATE = Scenario(
    "evaluate", ("out/", "cache"), _evaluate, _evaluate, whole_files,
    lambda one, other: equal_records(one, other, ["out/evaluation.json"]),
)  # fmt: skip


def _analyze(bench: Bench, folder: Path) -> Callable[[], int]:
    return command([
        "analyze", "The lamp went out", f"--model={material.model(bench)}", "--methods=occlusion",
        "--unit=word", f"--results-dir={folder / 'out'}", f"--cache-dir={folder / 'cache'}", *CPU,
    ])  # fmt: skip


def _whole_pages(folder: Path) -> None:
    whole_files(folder)
    for page in folder.rglob("*.html"):
        if not page.name.startswith(".") and "</html>" not in page.read_text("utf-8")[-200:]:
            raise Fault(f"{page.name} ends in the middle")


def _same_analysis(one: Path, other: Path) -> None:
    names = sorted(str(p.relative_to(one)) for p in one.rglob("out/**/*.json"))
    equal_records(one, other, names)


ANALYZE = Scenario(
    "analyze", ("out/",), _analyze, _analyze, _whole_pages, _same_analysis
)  # fmt: skip


def _export(to: str, *more: str) -> Scenario:
    def words(bench: Bench, folder: Path) -> Callable[[], int]:
        return command([
            "export", material.model(bench, "llama"), "--to", to, "--out",
            folder / "out" / "model", "--overwrite", "--json", *CPU, *more,
        ])  # fmt: skip

    def same(one: Path, other: Path) -> None:
        files = sorted(p for p in (one / "out/model").rglob("*") if p.suffix in
                       (".safetensors", ".gguf"))  # fmt: skip
        equal_bytes(one, other, [str(path.relative_to(one)) for path in files])

    return Scenario(f"export-{to}", ("out/",), words, words, whole_files, same)


EXPORTS = (_export("merged", "--verify=2"), _export("gguf", "--quantize=Q8_0", "--verify=2"))

# ---- caches


def _starter(bench: Bench, folder: Path) -> Callable[[], int]:
    files = material.starter(bench)

    def body() -> int:
        from starter_files import WHEEL_NAME

        from creativewritinggpt.files import file_sha256
        from creativewritinggpt.models import starter

        starter.GGUF_SHA256 = file_sha256(files / "tiny.gguf")
        starter.WHEEL_SHA256 = file_sha256(files / WHEEL_NAME)
        return command([
            "generate", "The lamp", "--model=starter", f"--starter-file={files / WHEEL_NAME}",
            "--max-new-tokens=4", "--seed=1", f"--cache-dir={folder / 'cache'}", *CPU,
        ])()  # fmt: skip

    return body


def _same_starter(one: Path, other: Path) -> None:
    found = [p for p in (one / "cache").glob("starter-*/*") if p.name != "starter.json"]
    if not found:
        raise Fault("no starter in the cache")
    equal_bytes(one, other, [str(path.relative_to(one)) for path in found])


STARTER = Scenario("starter", ("cache",), _starter, _starter, whole_files, _same_starter)


def _packed(bench: Bench, folder: Path) -> Callable[[], int]:
    return command([
        "generate", "The lamp", f"--model={material.model(bench, 'llama')}", "--weights=onnx",
        "--max-new-tokens=4", "--seed=1", "--json", "--device=cpu", "--num-workers=1",
    ])  # fmt: skip


def _same_packed(one: Path, other: Path) -> None:
    names = sorted(str(p.relative_to(one)) for p in one.rglob("packed/*/*/weights.safetensors"))
    if not names:
        raise Fault("nothing was packed")
    equal_bytes(one, other, names)


PACKED = Scenario("packed", ("cache",), _packed, _packed, whole_files, _same_packed)

ALL = (training(), training("streaming", "--streaming"), GENERATE, SESSION, EVALUATE, ANALYZE,
       *EXPORTS, STARTER, PACKED)  # fmt: skip
