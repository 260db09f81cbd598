"""What the source never does: run what a file holds, or give a line to a shell."""

from __future__ import annotations

import ast
import os
import pickle
import socket
from pathlib import Path

import audit
import pytest

import creativewritinggpt

PACKAGE = Path(creativewritinggpt.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "joblib", "cloudpickle", "jsonpickle",
           "xmlrpc", "telnetlib", "ftplib", "smtplib", "urllib.request", "http.client",
           "requests"}  # fmt: skip
"""Modules that read objects with code in them, or that open connections."""
NAMES = {"eval", "exec", "compile", "__import__"}
CALLS = {
    "os.system", "os.popen", "os.execv", "os.execvp", "os.execve", "os.spawnv", "yaml.load",
    "yaml.full_load", "yaml.unsafe_load", "yaml.load_all", "torch.hub.load", "tarfile.extractall",
    "zipfile.extractall", "subprocess.getoutput", "subprocess.getstatusoutput",
    "runpy.run_path", "code.interact", "ET.parse", "ElementTree.parse",
}  # fmt: skip
ALLOWED = {
    "cli/doctor.py": "imports urllib.request",  # asks whether the hub answers
    "export/llama_cpp.py": "imports urllib.request",  # of llama.cpp's server on loopback
}
FILE_METHODS = {"extractall", "unpack_archive"}
"""Methods that write the files of an archive under the names that it gives them."""


def dotted(node: ast.AST) -> str:
    """``a.b.c`` of a chain of attributes."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        parts.append(node.id)
    return ".".join(reversed(parts))


def forbidden(tree: ast.AST) -> list[tuple[int, str]]:
    """Line and reason of what must not stand in the source."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            base = getattr(node, "module", None)
            names = [alias.name for alias in node.names]
            whole = [base, *(f"{base}.{name}" for name in names)] if base else names
            if not getattr(node, "level", 0):
                found += [(node.lineno, f"imports {name}") for name in whole
                          if name in MODULES or name.partition(".")[0] in MODULES]  # fmt: skip
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        words = {word.arg: word.value for word in node.keywords}

        def says(word: str, value: object, words: dict[str | None, ast.expr] = words) -> bool:
            given = words.get(word)
            return isinstance(given, ast.Constant) and given.value is value

        plain = isinstance(node.func, ast.Name)
        if (plain and name in NAMES) or name in CALLS or name.rpartition(".")[2] in FILE_METHODS:
            found.append((node.lineno, f"calls {name}"))
        if name.endswith("torch.load") and not says("weights_only", True):
            found.append((node.lineno, "torch.load without weights_only=True"))
        if name in ("np.load", "numpy.load") and not says("allow_pickle", False):
            found.append((node.lineno, "numpy.load without allow_pickle=False"))
        if "trust_remote_code" in words and not says("trust_remote_code", False):
            found.append((node.lineno, "trust_remote_code"))
        if "shell" in words and not says("shell", False):
            found.append((node.lineno, "shell=True"))
        if name.rpartition(".")[2] == "from_pretrained" and name.startswith("Auto"):
            found += [(node.lineno, f"{name} without {word}={value}")
                      for word, value in (("trust_remote_code", False), ("local_files_only", True))
                      if not says(word, value)]  # fmt: skip
        if name.endswith("XMLParser") and not (
            says("resolve_entities", False) and says("no_network", True)
        ):
            found.append((node.lineno, "an XML parser that expands entities"))
        if name.endswith("HTMLParser") and name.startswith(("etree.", "lxml.")) and (
            "no_network" in words and not says("no_network", True)
        ):  # fmt: skip
            found.append((node.lineno, "an HTML parser with network"))
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_file_is_executed_unpickled_or_given_to_a_shell(file: Path) -> None:
    found = forbidden(ast.parse(file.read_text("utf-8")))
    allowed = ALLOWED.get(file.relative_to(PACKAGE).as_posix())
    assert [why for _, why in found if why != allowed] == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from pickle import loads", "import urllib.request", "eval('1')",
        "from urllib import request", "exec(text)", "os.system('ls')", "yaml.load(text)",
        "torch.load(path)", "torch.load(path, weights_only=False)", "np.load(path)",
        "subprocess.run('ls', shell=True)", "archive.extractall(folder)",
        "AutoTokenizer.from_pretrained(folder)", "etree.XMLParser()",
        "AutoConfig.from_pretrained(f, local_files_only=True, trust_remote_code=given)",
    ],
)  # fmt: skip
def test_the_look_sees_what_it_looks_for(line: str) -> None:
    assert forbidden(ast.parse(line))


def test_what_is_allowed_is_not_seen() -> None:
    allowed = (
        "model.eval()\nre.compile('x')\nyaml.safe_load(text)\nself.load(path)\n"
        "torch.load(path, weights_only=True)\nnp.load(path, allow_pickle=False)\n"
        "subprocess.run(['ls'])\ntorch.compile(f)\nfrom .pickle import x\n"
        "AutoConfig.from_pretrained(f, local_files_only=True, trust_remote_code=False)\n"
        "etree.XMLParser(resolve_entities=False, no_network=True)"
    )
    assert forbidden(ast.parse(allowed)) == []


@pytest.mark.parametrize(
    "line",
    ["pickle.loads(data)", "os.system('true')", "exec('1')", "eval('1')",
     "socket.create_connection(('192.0.2.1', 9), 1)", "socket.getaddrinfo('example.org', 80)"],
)  # fmt: skip
def test_the_watch_of_the_suite_sees_what_it_watches_for(line: str) -> None:
    names = {"__name__": "creativewritinggpt.made_up", "pickle": pickle, "os": os,
             "socket": socket, "data": pickle.dumps(Path)}  # fmt: skip
    with pytest.raises(audit.Forbidden):
        exec(compile(line, __file__, "exec"), names)
    assert audit.seen or "socket" in line
    audit.seen.clear()
    names["__name__"] = "elsewhere"
    if "socket" not in line:
        exec(compile(line, __file__, "exec"), names)
    audit.seen.clear()
