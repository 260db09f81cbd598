"""The built wheel works in an environment of its own, outside the checkout."""

import os
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _run(*words, **options):
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.network
def test_the_wheel_runs_the_demo_without_the_repository(tmp_path):
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path / "dist", ROOT)
    [wheel] = (tmp_path / "dist").glob("*.whl")
    [archive] = (tmp_path / "dist").glob("*.tar.gz")
    _run(sys.executable, "-m", "twine", "check", "--strict", wheel, archive)

    environment = tmp_path / "venv"
    venv.create(environment, with_pip=True)
    folder = "Scripts" if sys.platform == "win32" else "bin"
    python = environment / folder / "python"
    # The dependencies are those of this environment; the package itself is the wheel's, since a
    # path in a .pth file brings no editable installs with it.
    where = _run(python, "-c", "import site; print(site.getsitepackages()[-1])").strip()
    (Path(where) / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    _run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel)

    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    clean["CWGPT_CACHE"] = str(tmp_path / "cache")
    clean.pop("HF_HUB_OFFLINE", None)
    found = _run(
        python, "-c", "import creativewritinggpt as c; print(c.__file__)", cwd=tmp_path, env=clean
    )
    assert str(environment) in found
    # The page of the studio comes whole, with the licences of its libraries, and needs no Node.
    assets = "from creativewritinggpt.studio import assets; print(assets.missing(), assets.WEB)"
    missing = _run(python, "-c", assets, cwd=tmp_path, env={**clean, "PATH": str(environment)})
    assert missing.startswith("[] ") and str(environment) in missing
    command = environment / folder / "cwgpt"
    assert _run(command, "--version", cwd=tmp_path, env=clean).startswith("cwgpt ")
    _run(command, "demo", "--max-steps", "2", cwd=tmp_path, env=clean)
    for name in ("outputs/best_model/adapter_model.safetensors", "outputs/evaluation.html",
                 "outputs/training_curves.png", "results/report.html"):  # fmt: skip
        assert (tmp_path / name).is_file(), name
