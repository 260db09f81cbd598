"""The README's commands work, and the demo with them, on a tiny model in the starter's place."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from corpora import write_stories

from creativewritinggpt.cli import main
from creativewritinggpt.models import loading

pytestmark = pytest.mark.cli
ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
NOVEL = "\n\n".join(
    f"CHAPTER {numeral}\n\n"
    + "\n\n".join(
        f"The captain of ship {chapter}.{part} laughed at the sea, and the lamp went out. Nobody "
        f"answered, not even the king with his {part} daughters. " * 3
        for part in range(6)
    )
    for chapter, numeral in enumerate(("I", "II", "III", "IV", "V", "VI", "VII", "VIII"))
)


def _blocks(kind):
    return re.findall(rf"```{kind}\n(.*?)```", README, flags=re.DOTALL)


def _commands():
    for block in _blocks("sh"):
        for line in block.splitlines():
            if line.startswith("cwgpt "):
                yield shlex.split(line)[1:]


@pytest.fixture
def tiny_starter(tiny_folder, tmp_path, monkeypatch):
    """A folder to work in, with a tiny model in the starter's place."""
    folder = tiny_folder("llama")
    monkeypatch.setattr(loading, "ensure_starter", lambda *_: folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", open("/dev/null"))  # noqa: SIM115
    (tmp_path / "novel.txt").write_text(NOVEL)
    write_stories(tmp_path / "stories.jsonl")
    return tmp_path


@pytest.mark.slow
def test_quick_start_commands_work_in_their_order(tiny_starter, capsys):
    commands = list(_commands())
    assert len(commands) >= 7
    for words in commands:
        assert main.main(words) == 0, (words, capsys.readouterr().err)


def test_python_example_works(tiny_starter, capsys):
    [example] = _blocks("python")
    script = compile(example, "README.md", "exec")
    namespace = {}
    exec(script, namespace)  # noqa: S102
    assert len(capsys.readouterr().out.split()) > 3


@pytest.mark.slow
def test_demo_runs_to_its_end_and_again(tiny_starter, capsys):
    assert main.main(["demo", "--max-steps", "2"]) == 0
    said = capsys.readouterr().err
    for part in ("base", "tuned", "evaluation.json", "training_curves.png", "Done in"):
        assert part in said
    assert (tiny_starter / "outputs" / "best_model" / "adapter_model.safetensors").is_file()
    parts = ["The demo takes", "1. Tr", "2. The", "tuned ppl", "4. Why", "report.html", "Done in"]
    places = [said.index(part) for part in parts]
    assert places == sorted(places)
    # Its own run it may replace, a user's not.
    assert main.main(["demo", "--max-steps", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["samples"]) == 3 and len(found["explanation"]["targets"]) == 3
    assert all(each["tuned"]["documents"] <= 2 for each in found["evaluation"]["domains"].values())
    assert sum(found["seconds_of_parts"].values()) <= 2.1 * found["seconds"]
    code = main.main(["train", "stories.jsonl", "--model-name", "starter", "--max-steps", "1",
                     "--overwrite"])  # fmt: skip
    assert code == 0
    assert main.main(["demo", "--max-steps", "1"]) == 2
    assert "already holds a run" in capsys.readouterr().err


@pytest.mark.slow
def test_the_full_demo_writes_texts_and_explains_more_beside_the_base(tiny_starter, capsys):
    assert main.main(["demo", "--full", "--max-steps", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["explanation"]["targets"]) == 8
    assert set(found["explanation"]["methods"]["integrated_gradients"]) == {"tuned", "base"}
    assert found["evaluation"]["generation"] and found["evaluation"]["originality"]


def test_make_knows_the_readmes_targets():
    for target in re.findall(r"^make (\w+)", README, flags=re.MULTILINE):
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_generated_pages_are_fresh():
    import sys

    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_links_to_files_lead_somewhere():
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for link in re.findall(r"\]\(((?!http)[^)#]+)\)", page.read_text("utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
