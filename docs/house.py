"""Counts of the code base, and the picture of it in ``docs/architecture.md``.

    python docs/house.py            print the table
    python docs/house.py --trace    also count the modules that three real commands run through
    python docs/house.py --write    write the table and the picture into docs/
    python docs/house.py --check    fail where docs/ are not what --write would make

Everything is read from the source by ``ast``; only ``--trace`` runs the program, on a tiny random
model. The traced counts are kept in the table until the next ``--trace --write``.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "creativewritinggpt"
PAGE = ROOT / "docs" / "architecture.md"
PICTURE = ROOT / "docs" / "images" / "house.svg"
BEGIN, END = "<!-- counts: made by docs/house.py -->", "<!-- end of counts -->"

# By the same script, on the code before it was rebuilt.
BEFORE = {
    "lines": 38269,
    "modules": 251,
    "mean": 152,
    "single": 79,
    "circles": 4,
    "private": 53,
    "readme": 3726,
    "train": 108,
    "generate": 43,
    "analyze": 81,
}
ASKED = {
    "lines": "≤ 33,000",
    "modules": "≤ 165",
    "mean": "≥ 200",
    "single": "≤ 20",
    "circles": "0",
    "private": "0",
    "readme": "≤ 1,000",
    "train": "≤ 54",
    "generate": "≤ 21",
    "analyze": "≤ 40",
}
LABELS = {
    "lines": "lines in src",
    "modules": "modules",
    "mean": "mean lines of a module",
    "single": "modules imported by one other only",
    "circles": "circles between modules",
    "private": "private names used by tests",
    "readme": "words of the README",
    "train": "modules run by `train --max-steps 1`",
    "generate": "modules run by `generate`",
    "analyze": "modules run by `analyze`",
}


def modules(package: Path = PACKAGE) -> dict[str, Path]:
    """Dotted names below the package to files; the package itself is ``""``."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = list(path.relative_to(package).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        found[".".join(parts)] = path
    return found


def imports(found: dict[str, Path]) -> dict[str, set[str]]:
    """Each module to the modules of the package that it imports, wherever in it."""
    graph: dict[str, set[str]] = {name: set() for name in found}
    for name, path in found.items():
        parts = name.split(".") if name else []
        if path.name != "__init__.py":
            parts = parts[:-1]
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.ImportFrom):
                continue
            if node.level:
                above = parts[: len(parts) - node.level + 1]
                base = ".".join(above + ([node.module] if node.module else []))
            elif (node.module or "").partition(".")[0] == "creativewritinggpt":
                base = (node.module or "").partition(".")[2]
            else:
                continue
            for alias in node.names:
                full = f"{base}.{alias.name}" if base else alias.name
                target = full if full in found else base
                if target in found and target != name:
                    graph[name].add(target)
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one module (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in graph[node]:
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            at = stack.index(node)
            component = stack[at:]
            del stack[at:]
            if len(component) > 1:
                found.append(sorted(component))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def private_names(tests: Path = ROOT / "tests") -> list[str]:
    """Uses of names of the package that begin with an underscore: ``path:line name``."""
    found = []
    for path in sorted(tests.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        ours = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                "creativewritinggpt"
            ):
                for alias in node.names:
                    ours.add(alias.asname or alias.name)
                    if _is_private(alias.name):
                        found.append(f"{path.relative_to(ROOT)}:{node.lineno} {alias.name}")
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and _is_private(node.attr):
                if isinstance(node.value, ast.Name) and node.value.id in ours:
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.attr}")
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                for dotted in re.findall(r"creativewritinggpt(?:\.\w+)+", node.value):
                    if any(_is_private(part) for part in dotted.split(".")):
                        found.append(f"{path.relative_to(ROOT)}:{node.lineno} {dotted}")
            elif (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "setattr"
                and len(node.args) > 1
                and isinstance(node.args[0], ast.Name)
                and node.args[0].id in ours
                and isinstance(node.args[1], ast.Constant)
                and _is_private(str(node.args[1].value))
            ):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.args[1].value}")
    return found


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


_TRACER = """
import sys, threading, json, atexit
package, out = sys.argv[1], sys.argv[2]
sys.argv = ["cwgpt", *sys.argv[3:]]
seen = set()
def profile(frame, event, argument):
    if event == "call":
        code = frame.f_code
        if code.co_filename.startswith(package) and code.co_name != "<module>":
            seen.add(code.co_filename)
threading.setprofile(profile)
sys.setprofile(profile)
import runpy
try:
    runpy.run_module("creativewritinggpt", run_name="__main__", alter_sys=False)
except SystemExit as end:
    code = end.code
else:
    code = 0
sys.setprofile(None)
json.dump(sorted(seen), open(out, "w"))
sys.exit(code)
"""


def _tiny_model(folder: Path) -> None:
    """A random GPT-2 of two layers with a byte-level tokenizer, as a model folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<|endoftext|>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=end, eos_token=end, pad_token=end
    ).save_pretrained(folder)
    GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(vocabulary), n_positions=128, n_embd=32, n_layer=2, n_head=2,
            bos_token_id=0, eos_token_id=0,
        )
    ).save_pretrained(folder)  # fmt: skip


def traced() -> dict[str, list[str]]:
    """The modules of the package in which a function runs, by command."""
    found = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        _tiny_model(folder / "model")
        text = "The lamp went out, and the captain laughed. Nobody answered; the sea turned over. "
        (folder / "novel.txt").write_text("\n\n".join(f"{i}. {text * 3}" for i in range(40)))
        commands = {
            "train": ["train", "novel.txt", "--model-name", "model", "--max-steps", "1",
                      "--max-length", "64"],
            "generate": ["generate", "The lamp", "--model", "outputs/best_model",
                         "--max-new-tokens", "8"],
            "analyze": ["analyze", "The lamp", "--model", "outputs/best_model"],
        }  # fmt: skip
        environment = os.environ | {
            "PYTHONPATH": str(PACKAGE.parent),
            "CWGPT_CACHE": str(folder / "cache"),
            "HF_HUB_OFFLINE": "1",
        }
        for name, words in commands.items():
            out = folder / f"{name}.json"
            subprocess.run(
                [sys.executable, "-c", _TRACER, str(PACKAGE), str(out), *words],
                cwd=folder,
                env=environment,
                check=True,
                stdout=subprocess.DEVNULL,
            )
            found[name] = [str(Path(p).relative_to(PACKAGE)) for p in json.loads(out.read_text())]
    return found


def counts() -> dict[str, int]:
    """All that is read from the source."""
    found = modules()
    graph = imports(found)
    importers: dict[str, set[str]] = defaultdict(set)
    for name, targets in graph.items():
        for target in targets:
            importers[target].add(name)
    lines = {name: len(path.read_text("utf-8").splitlines()) for name, path in found.items()}
    return {
        "lines": sum(lines.values()),
        "modules": len(found),
        "mean": round(sum(lines.values()) / len(found)),
        "single": sum(len(importers[n]) == 1 for n, p in found.items() if p.name != "__init__.py"),
        "circles": len(circles(graph)),
        "private": len(private_names()),
        "readme": len((ROOT / "README.md").read_text("utf-8").split()),
    }


def table(now: dict[str, int]) -> str:
    """The counts as Markdown, beside those from before and what is asked."""
    rows = ["| | before | asked | now |", "|---|---:|---:|---:|"]
    for key, label in LABELS.items():
        before = BEFORE[key]
        cells = [f"{value:,}" if value is not None else "–" for value in (before, now.get(key))]
        rows.append(f"| {label} | {cells[0]} | {ASKED[key]} | {cells[1]} |")
    return "\n".join(rows)


# The rooms from top to bottom: each imports from those below only.
STOREYS = (
    ("cli",),
    ("session", "api"),
    ("story", "training", "evaluation", "analysis"),
    ("generation",),
    ("models", "data"),
    ("config",),
    ("root files",),
)
_TITLES = {
    "cli": "cwgpt and its verbs",
    "session": "writing on a terminal",
    "api": "Python API",
    "story": "tree, file, context",
    "training": "LoRA, loop, checkpoints",
    "evaluation": "perplexity, metrics, tasks",
    "analysis": "attributions, report",
    "generation": "engine, samplers, presets",
    "models": "loading, adapters, forward",
    "data": "sources, splits, rows",
    "config": "settings, recipes",
    "root files": "errors, files, console, devices, …",
}


def _storeys(found: dict[str, Path]) -> Iterator[tuple[int, str, int, int]]:
    """Storey, room, its modules and lines."""
    rooms: dict[str, list[Path]] = defaultdict(list)
    named = {room for storey in STOREYS for room in storey}
    for name, path in found.items():
        room = name.partition(".")[0]
        rooms[room if room in named else "root files"].append(path)
    for level, storey in enumerate(STOREYS):
        for room in storey:
            paths = rooms[room]
            lines = sum(len(path.read_text("utf-8").splitlines()) for path in paths)
            yield level, room, len(paths), lines


def picture() -> str:
    """The house as SVG: a storey a row; imports go downwards only, which a test checks."""
    width, height, gap = 860, 62, 12
    rooms = list(_storeys(modules()))
    parts = []
    for level, storey in enumerate(STOREYS):
        wide = (width - gap * (len(storey) - 1)) / len(storey)
        y = level * (height + gap) + 4
        for place, name in enumerate(storey):
            count, lines = next((n, c) for at, r, n, c in rooms if at == level and r == name)
            x = place * (wide + gap) + 4
            middle = x + wide / 2
            parts += [
                f'<rect x="{x:.0f}" y="{y}" width="{wide:.0f}" height="{height}" rx="6"/>',
                f'<text class="name" x="{middle:.0f}" y="{y + 21}">{name}</text>',
                f'<text x="{middle:.0f}" y="{y + 38}">{_TITLES[name]}</text>',
                f'<text class="size" x="{middle:.0f}" y="{y + 54}">{count} modules, '
                f"{lines:,} lines</text>",
            ]
    high = len(STOREYS) * (height + gap)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width + 8} {high}" '
            'font-family="system-ui, sans-serif" font-size="13" text-anchor="middle">',
            "<title>The rooms of CreativeWritingGPT; each imports from those below only</title>",
            "<style>rect{fill:#eef3f8;stroke:#4a6c8c}text{fill:#333}.name{font-weight:600;"
            "font-size:15px;fill:#12304d}.size{fill:#667;font-size:11px}</style>",
            *parts,
            "</svg>",
            "",
        ]
    )


def _kept(page: str) -> dict[str, int]:
    """The traced counts that the page holds."""
    found = {}
    for key in ("train", "generate", "analyze"):
        match = re.search(re.escape(f"| {LABELS[key]} |") + r".*\| ([\d,]+) \|$", page, re.M)
        if match:
            found[key] = int(match.group(1).replace(",", ""))
    return found


def main() -> int:
    """Print, write or check the counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trace", action="store_true", help="run three commands on a tiny model")
    parser.add_argument("--write", action="store_true", help="write them into docs/")
    parser.add_argument("--check", action="store_true", help="fail where docs/ differ")
    parser.add_argument("--list", action="store_true", help="name what is counted")
    arguments = parser.parse_args()
    page = PAGE.read_text("utf-8")
    now = counts() | _kept(page)
    if arguments.trace:
        ran = traced()
        now |= {name: len(paths) for name, paths in ran.items()}
        if arguments.list:
            for name, paths in ran.items():
                print(f"{name}: {' '.join(paths)}")
    if arguments.list:
        graph = imports(modules())
        importers: dict[str, list[str]] = defaultdict(list)
        for name, targets in graph.items():
            for target in targets:
                importers[target].append(name)
        for name, path in modules().items():
            if path.name != "__init__.py" and len(importers[name]) == 1:
                print(f"imported by {importers[name][0]} only: {name}")
        for circle in circles(graph):
            print("circle:", " ".join(circle))
        print("\n".join(private_names()))
    text = table(now)
    print(text)
    if not (arguments.write or arguments.check):
        return 0
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    new = f"{before}{BEGIN}\n{text}\n{END}{after}"
    if arguments.write:
        PAGE.write_text(new, "utf-8")
        PICTURE.write_text(picture(), "utf-8")
        return 0
    same = new == page and PICTURE.read_text("utf-8") == picture()
    if not same:
        print("docs/architecture.md or its picture is stale: python docs/house.py --write")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
