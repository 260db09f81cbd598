"""Prompt files: many prompts in, JSON lines out.

Lines are written in the order of the prompts, a batch at a time, so that a stopped run loses one
batch at most and ``resume`` continues after the last complete prompt. The text of a prompt does not
depend on the other prompts of its batch.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..console import CountCallback
from ..errors import InputError
from ..files import check_writable, disk_errors, read_text
from ..locking import one_writer
from .decoder import MOST_ROWS, Request
from .engine import Interrupted, write_all
from .results import Generated, Scores, best
from .sampling.settings import SEEDS, GenerationSettings, seeds_from

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel

_BEGIN = b'{"line": '  # how each line of an output file begins
_BESIDE = ("memory", "note")


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One line of a prompts file.

    Attributes:
        line: Number of the line, from 1.
        text: The prompt.
        id: The user's name for it, if any.
        seed: Its own seed, if any.
        memory: Text pinned to the front of the model's view.
        note: Text pinned a few paragraphs before its end.
        parts: Stretches of the prompt with a name, for explanations: name, first character, end.
    """

    line: int
    text: str
    id: str | int | None = None
    seed: int | None = None
    memory: str = ""
    note: str = ""
    parts: tuple[tuple[str, int, int], ...] = ()

    def settings(self, usual: GenerationSettings) -> GenerationSettings:
        """``usual`` with the prompt's own seed, if it has one."""
        return usual if self.seed is None else dataclasses.replace(usual, seed=self.seed)


def read_prompts(path: str | Path) -> list[Prompt]:
    """The prompts of a file: lines of text, or in ``.jsonl`` texts or objects with ``prompt``.

    An object may also have ``id``, ``seed``, ``memory``, ``note`` and ``parts``.

    Raises:
        InputError: The file can't be read or a line has another form.
    """
    path = Path(path)
    lines = read_text(path).split("\n")
    prompts = []
    for number, line in enumerate(lines, 1):
        line = line.removesuffix("\r")
        if line.strip():
            structured = path.suffix == ".jsonl"
            prompts.append(_parse(line, number, path) if structured else Prompt(number, line))
    if not prompts:
        raise InputError(f"{path} holds no prompts", "put one on each line")
    return prompts


def _parse(line: str, number: int, path: Path) -> Prompt:
    where = f"{path}, line {number}"
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON") from error
    row = {"prompt": row} if isinstance(row, str) else row
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
        raise InputError(f"{where}: neither text nor an object with a `prompt`")
    seed = row.get("seed")
    if seed is not None and (type(seed) is not int or not 0 <= seed < SEEDS):
        raise InputError(f"{where}: seed is {seed!r}", f"give a whole number from 0 to {SEEDS - 1}")
    memory, note = row.get("memory") or "", row.get("note") or ""
    if not isinstance(memory, str) or not isinstance(note, str):
        raise InputError(f"{where}: memory and note must be text")
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: half a surrogate pair, which is no character") from error
    identity = row.get("id")
    if not isinstance(identity, (str, int, type(None))):
        raise InputError(f"{where}: id must be text or a whole number")
    return Prompt(number, row["prompt"], identity, seed, memory, note, _parts(row, where))


def _parts(row: dict[str, Any], where: str) -> tuple[tuple[str, int, int], ...]:
    try:
        found = [(str(name), int(start), int(end)) for name, start, end in row.get("parts") or ()]
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{where}: parts are lists of name, first character and end") from error
    length = len(row["prompt"])
    return tuple((name, start, end) for name, start, end in found if 0 <= start < end <= length)


def check_files(
    prompts: str | Path | Sequence[Prompt], out_file: str | Path, resume: bool
) -> list[Prompt]:
    """The prompts for :func:`write_file`, checked with the output before a model is loaded.

    Raises:
        InputError: The prompts can't be read, the output exists or its folder can't be written.
    """
    found = read_prompts(prompts) if isinstance(prompts, (str, Path)) else list(prompts)
    out = Path(out_file)
    if out.exists() and not resume:
        raise InputError(f"{out} exists", "go on with it by --resume, or name another file")
    check_writable(out.parent)
    return found


def write_file(
    model: LoadedModel,
    prompts_file: str | Path | Sequence[Prompt],
    out_file: str | Path,
    settings: GenerationSettings,
    n: int = 1,
    *,
    resume: bool = False,
    alternatives: int = 0,
    taste: Scores | None = None,
    progress: CountCallback | None = None,
) -> int:
    """Continue every prompt of a file ``n`` times.

    Args:
        model: The model.
        prompts_file: See :func:`read_prompts`; or the prompts themselves.
        out_file: JSON lines: ``line``, ``id``, ``memory``, ``note``, ``index``, ``n``,
            ``model``, ``adapter`` and the record of the text.
        settings: Generation settings; with ``best_of`` the best ``n`` of so many.
        n: Number of texts per prompt.
        resume: Continue an output file that exists.
        alternatives: Number of alternatives to record per token.
        taste: Scores of drafts, for ``rank_by`` of ``taste``.
        progress: Called with the number of prompts done and of all.

    Returns:
        The number of prompts.

    Raises:
        InputError: A file can't be used, another process writes the output, or it was made for
            other prompts, by another model or with other settings.
        Interrupted: Ctrl-C; completed texts are in the file.
        RunError: The disk is full.
    """
    prompts = check_files(prompts_file, out_file, resume)
    out = Path(out_file)
    total = len(prompts)
    busy = InputError(f"another process is writing {out}", "wait for it, or name another file")
    with disk_errors(out), one_writer(out, busy):
        done = _completed(model, out, prompts, settings, n) if out.exists() else 0
        with out.open("a", encoding="utf-8") as stream:
            for part, texts in _in_batches(model, prompts[done:], settings, n, alternatives, taste):
                for prompt, written in zip(part, texts, strict=True):
                    for index, text in enumerate(written):
                        row = _row(model, prompt, index, n, text)
                        stream.write(json.dumps(row) + "\n")
                stream.flush()
                done += len(part)
                if progress is not None:
                    progress(done, total)
    return total


def _in_batches(
    model: LoadedModel,
    prompts: list[Prompt],
    settings: GenerationSettings,
    n: int,
    alternatives: int,
    taste: Scores | None,
) -> Iterator[tuple[list[Prompt], list[list[Generated]]]]:
    count = max(n, settings.best_of or n)
    size = max(1, MOST_ROWS // count)
    for first in range(0, len(prompts), size):
        part = prompts[first : first + size]
        requests = []
        for prompt in part:
            requests += [
                Request(prompt.text, seed, prompt.memory, prompt.note)
                for seed in seeds_from(prompt.settings(settings).seed, count)
            ]
        try:
            texts = write_all(model, requests, settings, alternatives=alternatives)
        except Interrupted as stopped:
            stopped.advice = "go on with --resume"
            raise
        groups = [texts[i : i + count] for i in range(0, len(texts), count)]
        if settings.best_of:
            groups = [best(group, n, settings.rank_by, taste) for group in groups]
        yield part, groups


def _row(model: LoadedModel, prompt: Prompt, index: int, n: int, text: Generated) -> dict[str, Any]:
    head: dict[str, Any] = {"line": prompt.line}
    if prompt.id is not None:
        head["id"] = prompt.id
    head |= {name: value for name in _BESIDE if (value := getattr(prompt, name))}
    return {
        **head,
        "index": index,
        "n": n,
        "model": model.name,
        "adapter": model.adapter,
        **text.to_dict(),
    }


def _completed(
    model: LoadedModel, out: Path, prompts: list[Prompt], settings: GenerationSettings, n: int
) -> int:
    """Number of prompts that have all their lines; the file is truncated after them.

    Raises:
        InputError: The file holds texts for other prompts, by another model, with other settings,
            or is not an output file at all.
    """
    done = count = position = 0
    whole = 0  # bytes up to the last complete prompt
    with disk_errors(out), out.open("rb") as stream:
        for line in stream:
            position += len(line)
            if not line.endswith(b"\n"):
                # Only the beginning of an output line may be truncated.
                if line[: len(_BEGIN)] != _BEGIN[: len(line)]:
                    raise InputError(f"{out} is not the output of such a run", "name another file")
                break
            try:
                row = json.loads(line)
                same = done < len(prompts) and (
                    (row["line"], row["prompt"], row.get("id"))
                    == (prompts[done].line, prompts[done].text, prompts[done].id)
                    and (row["model"], row["adapter"]) == (model.name, model.adapter)
                )
                other = _other_settings(row, prompts[done], settings, n) if same else []
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise InputError(f"{out} is not the output of such a run: {error}") from error
            if not same:
                raise InputError(
                    f"{out} was written for other prompts or by another model",
                    "name another file",
                )
            if other:
                raise InputError(
                    f"{out}, prompt {prompts[done].line}, was written with another "
                    f"{', '.join(other)}",
                    "give what it was written with, or name another file",
                )
            count += 1
            if count == n:
                done, count, whole = done + 1, 0, position
    with disk_errors(out), out.open("rb+") as stream:
        stream.truncate(whole)
    return done


def _other_settings(
    row: dict[str, Any], prompt: Prompt, settings: GenerationSettings, n: int
) -> list[str]:
    """Names of the settings with which ``row`` was written and the next texts won't be."""
    then = {"heal": False, **row["settings"]}  # a setting that older files don't have
    now: dict[str, Any] = json.loads(json.dumps(settings.to_dict()))
    names = sorted((then.keys() | now.keys()) - {"seed"})
    other = ["--n"] if row["n"] != n else []
    other += [name for name in names if then.get(name) != now.get(name)]
    seed = prompt.settings(settings).seed
    if seed is not None and row["seed"] not in seeds_from(seed, max(n, settings.best_of or n)):
        other.append("seed")
    return other + [name for name in _BESIDE if row.get(name, "") != getattr(prompt, name)]
