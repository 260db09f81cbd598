"""Presets: each says why, each can be used, and the user's own come from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from creativewritinggpt.errors import InputError
from creativewritinggpt.generation.engine import write
from creativewritinggpt.generation.sampling.settings import (
    GenerationSettings,
    preset,
    presets,
    settings_for,
    shipped,
    user_file,
)

GENRES = {
    "fantasy", "science-fiction", "mystery", "horror", "romance", "literary", "children", "wild",
    "steady",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


def own(text: str) -> None:
    user_file().parent.mkdir(parents=True, exist_ok=True)
    user_file().write_text(text, "utf-8")


def test_every_genre_has_a_preset_with_a_reason_and_no_two_are_alike() -> None:
    assert set(shipped()) == GENRES
    assert all(len(found.why) > 30 for found in shipped().values())
    different = {str(found.settings().to_dict()) for found in shipped().values()}
    assert len(different) == len(GENRES)


@pytest.mark.parametrize("name", sorted(GENRES))
def test_every_preset_writes(tiny_writer: Any, name: str) -> None:
    settings = settings_for(name, {"max_new_tokens": 5, "seed": 1, "min_new_tokens": 5})
    [text] = write(tiny_writer("gpt2"), "Once upon a time", settings)
    assert len(text.tokens) == 5


def test_what_is_asked_for_by_name_wins_over_the_preset() -> None:
    settings = settings_for("wild", {"temperature": 0.5})
    assert settings.temperature == 0.5 and settings.min_p == preset("wild").settings().min_p
    assert settings_for(None, {}) == GenerationSettings()


def test_the_users_presets_add_to_ours_and_win() -> None:
    own("noir:\n  why: rain\n  temperature: 0.8\nwild:\n  why: mine\n  top_k: 7\n")
    assert set(presets()) == GENRES | {"noir"}
    assert preset("noir").settings().temperature == 0.8
    assert preset("wild").settings().top_k == 7


def test_a_path_is_a_preset(tmp_path: Path) -> None:
    path = tmp_path / "storm.yaml"
    path.write_text('temperature: 1.2\nstop: ["\\n\\n"]\n', "utf-8")
    assert preset(str(path)).settings().stop == ["\n\n"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("noir:\n  temprature: 1\n", "temprature"),
        ("noir:\n  temperature: 99\n", "99"),
        ("noir: 5\n", "name: value"),
        ("- noir\n", "name: value"),
        ("noir: [\n", "not valid YAML"),
    ],
)
def test_a_wrong_file_is_named(text: str, said: str) -> None:
    own(text)
    with pytest.raises(InputError, match=said):
        preset("noir").settings()


def test_an_unknown_preset_is_named_with_the_nearest() -> None:
    with pytest.raises(InputError, match="no preset 'fantsy'") as caught:
        preset("fantsy")
    assert caught.value.advice == "did you mean 'fantasy'?"
    with pytest.raises(InputError, match="does not exist"):
        preset("nowhere.yaml")
