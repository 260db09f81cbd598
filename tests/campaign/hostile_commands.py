"""Hostile command lines: all verbs, flags in any order and number, values of every kind."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import sys
from pathlib import Path
from typing import Any

from corpora import TEXT, write_stories
from hypothesis import strategies as st

from .hostile_models import tiny
from .sandbox import Hostile, Target

_VALUES = [
    "", "0", "-1", "1", "3", "1e999", "nan", "inf", "9" * 30, "9" * 5000, "x", "true", "🦊",
    "\udcff",
    "a=1", "a=1,b=nan", "=", ",", ",,,", "..", "../../x", "/", "/etc/passwd", "/dev/null", ".", "~",
    "~nobody/x", "stories.jsonl", "text.txt", "empty.txt", "picture.txt", "folder", "nothing",
    "tiny",
    "cpu", "cuda:99", "fp32", "starter", "novel", "gpt2", "-", "--", "a b", "a\nb", "x" * 5000,
    "$(x)",
    "[1", "{", "%s", "fantasy", "0.5", "1,2,3", "NAME=stories.jsonl", "sample", "a/b:c",
            "org/model",
    "mine.yaml", "loop.yaml", "tiny=0.5", "\t", "١", "²", "1_000", "0x10", "+1", " 1", "1.0",
]  # fmt: skip


@functools.cache
def _flags() -> dict[str, list[str]]:
    from creativewritinggpt.cli.main import VERBS, build_parser

    # A session asks the terminal, a server goes on for ever.
    return {verb: build_parser(verb).flags_of(verb) for verb in VERBS if verb not in ("demo",)}


@st.composite
def _lines(draw: st.DrawFn) -> list[str]:
    flags = _flags()
    verb = draw(st.sampled_from([*flags, "", "nothing", "--help", "--version", "Train"]))
    value = st.one_of(st.sampled_from(_VALUES), st.text(max_size=8))
    words: list[str] = []
    for _ in range(draw(st.integers(0, 5))):
        kind = draw(st.integers(0, 5))
        known = flags.get(verb, ["--x"])
        flag = draw(st.sampled_from(known))
        if kind <= 2:
            words += [flag, draw(value)]
        elif kind == 3:
            words.append(draw(st.sampled_from([flag, f"{flag}={draw(value)}", flag[:-1],
                                               flag.upper(),
                                               f"--no-{flag[2:]}"])))  # fmt: skip
        elif kind == 4:
            words.append(draw(value))
        else:
            words.append(draw(st.sampled_from(["inspect", "show", "copy", "report", "text.txt",
                                               "stories.jsonl", "--json", "--debug",
                                               "list"])))  # fmt: skip
    words = [word.replace("\x00", "") for word in words]
    if verb in ("generate", "analyze", "evaluate", "export", "serve", "studio"):
        words += ["--model", draw(st.sampled_from(["nothing", "folder", "text.txt", "tiny"]))]
        if verb in ("serve", "studio", "evaluate", "export"):  # which would go on for ever, or long
            words[-1] = draw(st.sampled_from(["nothing", "folder", "text.txt"]))
        if verb == "studio":  # which needs no model to start
            words += ["--port", "none"]
        if verb == "generate":
            words += ["--max-new-tokens", "2"]
    if verb == "train":
        words += ["--model-name", draw(st.sampled_from(["nothing", "folder", "text.txt"]))]
    return ([verb] if verb else []) + words


def _act(case: list[str], folder: Path) -> None:
    """Run a command line in a folder with a few files."""
    from creativewritinggpt.cli.main import main

    write_stories(folder / "stories.jsonl", count=6)
    (folder / "text.txt").write_text(TEXT * 9)
    (folder / "empty.txt").write_text("")
    (folder / "picture.txt").write_bytes(bytes(range(256)) * 9)
    (folder / "mine.yaml").write_text("lora_r: 4\n")
    (folder / "loop.yaml").write_text("lora_r: &a\n  - *a\n")
    (folder / "folder").mkdir()
    os.symlink(tiny()[1], folder / "tiny")
    out, err = io.StringIO(), io.StringIO()
    before = sys.argv, sys.stdin
    sys.argv, sys.stdin = ["cwgpt", *case], io.TextIOWrapper(io.BytesIO(b"Once.\n/quit\n"))
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code: Any = main(list(case))
            except SystemExit as ended:
                code = ended.code or 0
    finally:
        sys.argv, sys.stdin = before
    said = err.getvalue()
    if code not in (0, 1, 2):
        raise Hostile(f"exit code {code}: {said[-300:]}")
    if ("Traceback" in said and "--debug" not in case) or "this should not happen" in said:
        raise Hostile(f"an error that nobody has thought of: {said[-1500:]}")
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    if code and len(errors) != 1:
        raise Hostile(f"exit code {code} with {len(errors)} errors: {said[-600:]}")
    if errors and len(said[said.rindex("error: ") :].splitlines()) > 2 and "--debug" not in case:
        raise Hostile(f"an error of many lines: {said[-900:]}")
    out.getvalue().encode("utf-8", "surrogateescape")


def _prepare() -> None:
    import creativewritinggpt.analysis.run
    import creativewritinggpt.evaluation.run
    import creativewritinggpt.export.run
    import creativewritinggpt.training.run  # noqa: F401

    tiny()
    _flags()


TARGETS = (Target("command-line", st.deferred(_lines), _act, _prepare, pace=150),)
