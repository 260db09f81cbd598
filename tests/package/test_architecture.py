"""Imports point one way, modules stay small, nothing is imported before it is needed."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "creativewritinggpt"
BOTTOM = {
    "_version", "config", "devices", "errors", "files", "locking", "console", "distributed",
    "plotting", "html_page",
}  # fmt: skip
JOBS = {"training", "evaluation", "analysis", "generation", "models", "data"}
ALLOWED = {
    "models": {"models"} | BOTTOM,
    "data": {"data"} | BOTTOM,
    "training": {"training", "models", "data"} | BOTTOM,
    "generation": {"generation", "models", "data"} | BOTTOM,
    "evaluation": {"evaluation", "generation", "models", "data"} | BOTTOM,
    "analysis": {"analysis", "generation", "models", "data"} | BOTTOM,
    "story": {"story", "generation", "models", "data"} | BOTTOM,
    "session": {"session", "story", "generation", "models", "data"} | BOTTOM,
    "api": {"export"} | JOBS | BOTTOM,
    "server": {"server", "analysis", "generation", "models", "data"} | BOTTOM,
    "export": {"export", "generation", "models", "data"} | BOTTOM,
    "taste": {"taste", "story", "training", "evaluation", "generation", "models", "data"} | BOTTOM,
    "studio": {"studio", "server", "export", "story", "taste"} | JOBS | BOTTOM,
    "cli": (
        {"__init__", "cli", "api", "server", "session", "story", "studio", "export", "taste"}
        | JOBS
        | BOTTOM
    ),
    "__main__": {"cli"},
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def _room(path):
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else path.stem


def _imported_rooms(path):
    """Rooms of the package that a module imports, wherever in it."""
    depth = len(path.relative_to(PACKAGE).parts)
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level == 0:
            if (node.module or "").partition(".")[0] == "creativewritinggpt":
                yield ((node.module or "").split(".") + ["__init__"])[1]
            continue
        if node.level < depth:
            yield _room(path)
        elif node.module:
            yield node.module.partition(".")[0]
        else:
            for name in node.names:
                inside = (PACKAGE / name.name).is_dir() or (PACKAGE / f"{name.name}.py").is_file()
                yield name.name if inside else "__init__"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    room = _room(path)
    allowed = BOTTOM | {"api", "config"} if room == "__init__" else ALLOWED.get(room, BOTTOM)
    wrong = set(_imported_rooms(path)) - allowed
    assert not wrong, f"{path.name} in {room} imports {wrong}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_are_small_and_say_what_they_are_for(path):
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= 600
    assert ast.get_docstring(ast.parse(text)), "a module says what it is for"


def test_nothing_that_could_run_code_is_read():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
                assert not {"pickle", "joblib", "dill"} & set(names), path
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("torch.load", "eval", "exec"), path
                for keyword in node.keywords:
                    if keyword.arg in ("trust_remote_code", "allow_pickle"):
                        assert ast.unparse(keyword.value) == "False", path
