"""Learn from my choices: what is listed, what is said, and the run that is started."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from studios import story_of_picks

from creativewritinggpt.errors import InputError
from creativewritinggpt.studio.answers import NotFound
from creativewritinggpt.studio.choosing import Choosing
from creativewritinggpt.studio.runs import Runs
from creativewritinggpt.studio.studio import Studio
from creativewritinggpt.studio.training import Training


@pytest.fixture
def room(make_studio: Callable[..., Studio], tmp_path: Path) -> Iterator[Choosing]:
    """The choices of a studio whose open story has twenty picks, and another three."""
    (tmp_path / "stories").mkdir()
    story_of_picks(tmp_path / "stories" / "few.json", 3)
    studio = make_studio(story=story_of_picks(tmp_path / "stories" / "many.json", 20))
    runs = Runs(studio, watch=False)
    yield Choosing(Training(studio, runs))
    for record in runs.records():
        if record.ended is None:
            runs.processes.end(record.identity)


def test_stories_with_choices_are_listed_and_told_in_words(room: Choosing) -> None:
    options = room.options()
    assert [(one["choices"], one["open"]) for one in options["stories"]] == [(20, True), (3, False)]
    assert options["bases"][0]["id"] == "starter" and options["writes"] == "tiny"
    many, few = (one["id"] for one in options["stories"])
    found = room.report({"stories": [many]})
    assert found["usable"] == 20 and found["kinds"]["pick"]["choices"] == 20
    assert found["taste"].startswith("of 20 choices held out in turn") and found["sentences"]
    assert room.report({"stories": [many, few]})["recorded"] > found["recorded"]
    assert "too few" in room.report({"stories": [few]})["taste"]
    with pytest.raises(InputError, match="no story is chosen"):
        room.report({"stories": []})
    with pytest.raises(InputError, match="no longer known"):
        room.start({"stories": ["../../etc/passwd"]})
    assert not list(room.runs.folder.glob("*"))


def test_a_run_on_choices_keeps_its_stories_and_tells_what_came_of_it(
    room: Choosing, tiny_folder: Callable[..., Path]
) -> None:
    many = room.options()["stories"][0]["id"]
    model = room.studio.ids.id(tiny_folder("gpt2"))
    record = room.start({"stories": [many], "model": model, "name": "Taste"})
    at = record.words.index("--choices")
    assert record.words[2] == "train" and Path(record.words[at + 1]).name == "many.json"
    assert Path(record.words[at + 1]).parent == room.runs.place(record.id) / "texts"
    assert record.output == str(room.studio.outputs / "taste") and record.about["choices"]
    with pytest.raises(NotFound):
        room.learnt(record.id)
    room.runs.end(record.id)
    Path(record.output).mkdir(parents=True, exist_ok=True)
    draft = {"prompt": "It", "seed": 1, "before": " was.", "after": " is.", "memory": ""}
    report = {"sentences": ["Said."], "guard": None, "best_step": 2, "drafts": [draft]}
    (Path(record.output) / "choices_report.json").write_text(json.dumps(report))
    found = room.learnt(record.id)
    assert found["sentences"] == ["Said."] and found["changed"]
    assert found["drafts"] == [
        {name: draft[name] for name in ("prompt", "seed", "before", "after")}
    ]
