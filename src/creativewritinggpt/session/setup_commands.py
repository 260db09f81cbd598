"""Commands for what the model is told and how it writes: memory, note, lore, settings, model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from ..errors import InputError
from ..generation.sampling.presets import presets
from ..generation.sampling.settings import SEEDS, GenerationSettings
from ..story.tree import Lore
from .command import Command, number, typed
from .session import Session


def _memory(session: Session, rest: str) -> None:
    _text(session, rest, "memory")


def _note(session: Session, rest: str) -> None:
    _text(session, rest, "note")


def _text(session: Session, rest: str, name: str) -> None:
    """Show or set memory or note; a single dash empties it."""
    if rest.strip():
        new = "" if rest.strip() == "-" else typed(rest).strip()
        session.story.set(name, **{name: new})
    text = getattr(session.story.state, name)
    session.screen.note(f"{name}: {text or 'empty'}")


def _lore(session: Session, rest: str) -> None:
    story, rest = session.story, rest.strip()
    entries = list(story.state.lore)
    if rest.startswith("-"):
        if not entries:
            raise InputError("there is no lore to remove")
        gone = number(rest[1:], "/lore -", high=len(entries))
        del entries[gone - 1]
        story.set("lore", lore=tuple(entries))
    elif rest:
        keys, equals, text = rest.partition("=")
        names = tuple(key.strip() for key in keys.split(",") if key.strip())
        if not equals or not names or not text.strip():
            raise InputError(
                "/lore takes key words, = and a text",
                "as in /lore Aldric, the king = Aldric is old and fears the sea.",
            )
        always = names == ("*",)
        entry = Lore(() if always else names, typed(text).strip(), always)
        kept = [old for old in entries if old.keys != entry.keys or old.always != always]
        story.set("lore", lore=(*kept, entry))
    if not story.state.lore:
        session.screen.note("no lore; /lore KEY, KEY = TEXT adds an entry")
        return
    rows = [
        (place, ", ".join(lore.keys) or "(always)", lore.text)
        for place, lore in enumerate(story.state.lore, 1)
    ]
    session.screen.table(["#", "key words", "text"], rows)


def _preset(session: Session, rest: str) -> None:
    name = rest.strip()
    if name:
        session.use_preset(name)
        session.screen.note(f"preset {name}: {presets()[name].why}" if name in presets() else name)
        return
    rows = [
        ("*" if name == session.preset_name else "", name, preset.why)
        for name, preset in presets().items()
    ]
    session.screen.table(["", "preset", "why"], rows)


def _set(session: Session, rest: str) -> None:
    # People write both.
    name, equals, value = rest.strip().partition("=" if "=" in rest else " ")
    key = name.strip().replace("-", "_")
    if equals:
        given = None if value.strip() in ("", "none") else typed(value.strip())
        session.settings = session.settings.changed({key: given}, "/set")
    now, usual = session.settings.to_dict(), GenerationSettings().to_dict()
    if key and key not in now:
        session.settings.changed({key: None}, "/set")  # says what is meant, by its error
    chosen = [key] if key else list(now)
    rows = [(name, now[name], "" if now[name] == usual[name] else usual[name]) for name in chosen]
    session.screen.table(["setting", "value", "usual"], rows)


def _seed(session: Session, rest: str) -> None:
    word = rest.strip()
    if word:
        chosen = None if word in ("none", "new", "-") else number(
            word, "/seed", low=0, high=SEEDS - 1
        )  # fmt: skip
        session.settings = dataclasses.replace(session.settings, seed=chosen)
    seed = session.settings.seed
    last = "" if session.last_seed is None else f"; the last was {session.last_seed}"
    session.screen.note(("a new seed each time" if seed is None else f"seed {seed}") + last)


def _style(session: Session, rest: str) -> None:
    voice = session.voice
    if rest.strip():
        from ..generation.style import set_strength

        try:
            strength = float(rest)
        except ValueError as error:
            raise InputError(f"/style is {rest.strip()!r}", "give a number from 0 to 1.5") from (
                error
            )
        set_strength(voice.writer, strength)
        for name in voice.adapters:
            voice.adapters[name] = strength
    parts = [f"{name} at {weight:g}" for name, weight in voice.adapters.items()]
    session.screen.note("style: " + (", ".join(parts) or "no adapter"))


def _model(session: Session, rest: str) -> None:
    name = rest.strip()
    if name:
        session.use_model(name)
    writer = session.writer
    base = "" if writer.base_name == session.model else f", base {writer.base_name}"
    session.screen.note(f"{session.model}{base}, window of {writer.window:,} tokens")


def _models(session: Session) -> Iterable[str]:
    marks = ("adapter_config.json", "config.json")
    found = {str(path.parent) for mark in marks for path in Path().glob(f"outputs*/*/{mark}")}
    return ["starter", *sorted(found)]


COMMANDS = (
    Command("memory", "[TEXT | -]", "what the model always sees first", _memory),
    Command("note", "[TEXT | -]", "author's note, which it sees near the end", _note),
    Command("lore", "[KEYS = TEXT | -N]", "text that enters when a key word is near", _lore),
    Command("preset", "[NAME]", "write with a preset, or list them", _preset,
            lambda session: {name: preset.why for name, preset in presets().items()}),
    Command("set", "[NAME[=VALUE]]", "show or change a setting", _set,
            lambda session: [f"{name}=" for name in session.settings.to_dict()]),
    Command("seed", "[N | none]", "the same seed writes the same text", _seed),
    Command("style", "[X]", "strength of the adapter: 0 base, 1 as trained, to 1.5", _style),
    Command("model", "[NAME]", "write with another model", _model, _models),
)  # fmt: skip
