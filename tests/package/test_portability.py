"""Windows and macOS by construction: nothing that only POSIX or Linux has is reached on import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "creativewritinggpt"
MODULES = sorted(PACKAGE.rglob("*.py"))
POSIX_MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
POSIX_NAMES = {
    "os": {
        "chroot", "fork", "forkpty", "geteuid", "getpgid", "getpgrp", "getuid", "initgroups",
        "killpg", "mkfifo", "nice", "openpty", "register_at_fork", "sched_getaffinity",
        "sched_setaffinity", "setpgid", "setsid", "statvfs", "uname", "wait", "waitid",
    },
    "signal": {
        "SIGALRM", "SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGSTOP", "SIGTSTP",
        "SIGUSR1", "SIGUSR2", "SIGWINCH", "alarm", "pause", "pthread_kill", "setitimer",
        "sigwait",
    },
}  # fmt: skip
GUARDS = ("os.name", "sys.platform", "hasattr", "getattr", "find_spec")


def _posix_names(tree):
    """What a piece of code uses that Windows lacks, with the line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name.partition(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = (node.module or "").partition(".")[0] if node.level == 0 else ""
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names = [f"{node.value.id}.{node.attr}"]
        else:
            continue
        known = POSIX_MODULES | {f"{m}.{name}" for m, all_ in POSIX_NAMES.items() for name in all_}
        yield from ((name, node.lineno) for name in names if name in known)


def _run_on_import(tree):
    """The module without the bodies of its functions, which run later."""

    class Bodies(ast.NodeTransformer):
        def visit_FunctionDef(self, node):
            node.body = [ast.Pass()]
            return node

        visit_AsyncFunctionDef = visit_FunctionDef

        def visit_Lambda(self, node):
            return ast.Constant(None)

    return Bodies().visit(tree)


def test_the_search_finds_what_it_looks_for():
    text = (
        "import fcntl\nimport os, signal\nx = os.fork\nfrom os import setsid\ny = signal.SIGKILL\n"
    )
    assert [name for name, _ in _posix_names(ast.parse(text))] == [
        "fcntl", "os.setsid", "os.fork", "signal.SIGKILL"
    ]  # fmt: skip
    later = "import os\ndef f():\n    import pwd\n    return os.fork()\nclass A:\n    x = os.nice\n"
    assert [name for name, _ in _posix_names(_run_on_import(ast.parse(later)))] == ["os.nice"]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_posix_only_name_is_used_on_import(path):
    found = list(_posix_names(_run_on_import(ast.parse(path.read_text("utf-8")))))
    assert not found


def test_posix_only_names_in_functions_stand_behind_a_guard():
    unguarded = []
    for path in MODULES:
        tree = ast.parse(path.read_text("utf-8"))
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef) or not list(_posix_names(function)):
                continue
            text = ast.unparse(function)
            caught = any(isinstance(node, ast.Try) for node in ast.walk(function))
            if not caught and not any(guard in text for guard in GUARDS):
                unguarded.append(f"{path.relative_to(PACKAGE)}: {function.name}")
    assert unguarded == []


@pytest.mark.slow
def test_all_modules_are_imported_where_posix_is_missing():
    code = f"""
import builtins, importlib, os, pkgutil, signal, sys
import accelerate, matplotlib.pyplot, peft, prompt_toolkit, psutil, rich.console, torch
import transformers
import datasets, onnxruntime
posix, names = {POSIX_MODULES!r}, {POSIX_NAMES!r}
for module in (os, signal):
    for name in names[module.__name__]:
        if hasattr(module, name):
            delattr(module, name)
before = builtins.__import__
def guarded(name, globals=None, locals=None, fromlist=(), level=0):
    who = (globals or {{}}).get("__name__", "")
    if who.startswith("creativewritinggpt") and level == 0 and name.partition(".")[0] in posix:
        raise ImportError(f"{{who}} imports {{name}}")
    return before(name, globals, locals, fromlist, level)
builtins.__import__ = guarded
import creativewritinggpt
names = [m.name for m in pkgutil.walk_packages(creativewritinggpt.__path__, "creativewritinggpt.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(names))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) >= len(MODULES) - 5
