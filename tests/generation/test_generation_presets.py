"""Presets: each says why, each can be used, and the user's own come from a file."""

from __future__ import annotations

import dataclasses
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
    typed,
    unescape,
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


@pytest.mark.parametrize(
    ("typed_text", "meant"),
    [(r"\n", "\n"), (r"\t", "\t"), (r"\"", '"'), (r"\'", "'"), (r"\\n", r"\n"), (r"\\", "\\"),
     (r"\u00e9", "é"), (r"\ud83c\udf3e", "🌾"), (r"\ud83c", r"\ud83c"), (r"\q", r"\q"),
     ("C:\\dir", "C:\\dir"), (r"\u12", r"\u12"), ("\\", "\\"), ("plain", "plain"), ("\n", "\n")],
)  # fmt: skip
def test_escapes_are_read_where_text_is_typed(typed_text: str, meant: str) -> None:
    assert unescape(typed_text) == meant
    values = {"stop": [typed_text], "logit_bias": f"{typed_text}=1", "rank_by": typed_text}
    assert typed(values) == {"stop": [meant], "logit_bias": f"{meant}=1", "rank_by": typed_text}


@pytest.mark.parametrize(
    ("values", "unused"),
    [
        ({"temperature": 0, "top_k": 5, "seed": 1}, {"top_k", "seed"}),
        ({"temperature": 0.5, "top_k": 5, "seed": 1}, set()),
        ({"samplers": ["top_k"], "top_k": 5, "top_p": 0.5}, {"top_p"}),
        ({"dry_base": 2.0, "dry_breakers": ["x"]}, {"dry_base", "dry_breakers"}),
        ({"dry_base": 2.0, "dry_multiplier": 1.0}, set()),
        ({"xtc_threshold": 0.2}, {"xtc_threshold"}),
        ({"rank_by": "likelihood"}, {"rank_by"}),
        ({"rank_by": "likelihood", "best_of": 2}, set()),
        ({"penalty_range": 9}, set()),
        ({"penalty_range": 9, "repetition_penalty": 1.0}, {"penalty_range"}),
    ],
)
def test_settings_that_change_nothing_are_named(values: dict[str, Any], unused: set[str]) -> None:
    assert set(GenerationSettings().changed(values).without_effect(values)) == unused


def test_every_setting_of_a_sampler_is_known_to_be_its_own() -> None:
    every = {field.name: 0 for field in dataclasses.fields(GenerationSettings)}
    none = GenerationSettings().changed({"samplers": []})
    others = {"max_new_tokens", "min_new_tokens", "stop", "samplers", "banned", "best_of", "heal",
              "weights", "seed"}  # fmt: skip
    assert set(every) - set(none.without_effect(every)) == others
