"""The registry of slash commands, the commands that set up or look, and the answer to a line.

A line that begins with a slash is a command; any other line joins the story, and the model goes on.
"""

from __future__ import annotations

import codecs
import dataclasses
import difflib
import math
import os
import traceback
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from ..data.text import count_words
from ..errors import InputError, RunError, UserError
from ..generation.results import Token
from ..generation.sampling.settings import SEEDS, GenerationSettings, presets
from ..generation.style import parse_strength, set_strength
from ..story.tree import Lore
from .repl import Command, Repl, joined, typed, whole_number
from .screen import percent
from .session import Session
from .story_commands import FILE_COMMANDS, STORY_COMMANDS, last_passage

HELP = (
    "A line of text joins the story and the model goes on; an empty line lets it go on.\n"
    "Alt-Enter begins a new line, \\n stands for one, +text joins without a space, // is a slash.\n"
    "Ctrl-C stops the writing and keeps what is there, Ctrl-D leaves. Everything is saved as it "
    "comes."
)
_SHOWN = 20  # tokens in /probs
# Alternatives per row of /probs, by the width of the screen.
_FEW, _OTHERS, _WIDE = 3, 5, 110


def _text(name: str, repl: Repl, rest: str) -> None:
    """Show or set memory or note; a single dash empties it."""
    story = repl.session.story
    if rest.strip():
        story.set(name, **{name: "" if rest.strip() == "-" else typed(rest).strip()})
    repl.screen.note(f"{name}: {getattr(story.state, name) or 'empty'}")


def _lore(repl: Repl, rest: str) -> None:
    story, rest = repl.session.story, rest.strip()
    entries = list(story.state.lore)
    if rest.startswith("-"):
        if not entries:
            raise InputError("there is no lore to remove")
        del entries[whole_number(rest[1:], "/lore -", high=len(entries)) - 1]
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
        repl.screen.note("no lore; /lore KEY, KEY = TEXT adds an entry")
        return
    rows = [
        (place, ", ".join(lore.keys) or "(always)", lore.text)
        for place, lore in enumerate(story.state.lore, 1)
    ]
    repl.screen.table(["#", "key words", "text"], rows)


def _preset(repl: Repl, rest: str) -> None:
    session, name = repl.session, rest.strip()
    if name:
        session.use_preset(name)
        repl.screen.note(f"preset {name}: {presets()[name].why}" if name in presets() else name)
        return
    rows = [
        ("*" if name == session.preset_name else "", name, preset.why)
        for name, preset in presets().items()
    ]
    repl.screen.table(["", "preset", "why"], rows)


def _set(repl: Repl, rest: str) -> None:
    session = repl.session
    # People write both NAME=VALUE and NAME VALUE.
    name, equals, value = rest.strip().partition("=" if "=" in rest else " ")
    key = name.strip().replace("-", "_")
    if equals:
        given = None if value.strip() in ("", "none") else typed(value.strip())
        session.settings = session.settings.changed({key: given}, "/set")
    now, usual = session.settings.to_dict(), GenerationSettings().to_dict()
    if key and key not in now:
        session.settings.changed({key: None}, "/set")  # raises, naming the nearest setting
    chosen = [key] if key else list(now)
    rows = [(name, now[name], "" if now[name] == usual[name] else usual[name]) for name in chosen]
    repl.screen.table(["setting", "value", "usual"], rows)


def _seed(repl: Repl, rest: str) -> None:
    session, word = repl.session, rest.strip()
    if word:
        none = word in ("none", "new", "-")
        chosen = None if none else whole_number(word, "/seed", low=0, high=SEEDS - 1)
        session.settings = dataclasses.replace(session.settings, seed=chosen)
    seed = session.settings.seed
    last = "" if session.last_seed is None else f"; the last was {session.last_seed}"
    repl.screen.note(("a new seed each time" if seed is None else f"seed {seed}") + last)


def _style(repl: Repl, rest: str) -> None:
    model = repl.session.model
    if rest.strip():
        strength = parse_strength(rest.strip(), "/style")
        set_strength(model.loaded, strength)
        model.adapters.update(dict.fromkeys(model.adapters, strength))
    parts = [f"{name} at {weight:g}" for name, weight in model.adapters.items()]
    repl.screen.note("style: " + (", ".join(parts) or "no adapter"))


def _model(repl: Repl, rest: str) -> None:
    session = repl.session
    if rest.strip():
        session.use_model(rest.strip())
    name, model = session.model_name, session.loaded
    base = "" if model.base_name == name else f", base {model.base_name}"
    repl.screen.note(f"{name}{base}, window of {model.context_length:,} tokens")


def _models(session: Session) -> Iterable[str]:
    marks = ("adapter_config.json", "config.json")
    found = {str(path.parent) for mark in marks for path in Path().glob(f"outputs*/*/{mark}")}
    return ["starter", *sorted(found)]


def _probs(repl: Repl, rest: str) -> None:
    tokens = repl.session.tokens_of(last_passage(repl.session.story))
    wanted = rest.strip()
    places = list(range(len(tokens)))
    if wanted.isdigit():
        middle = whole_number(wanted, "/probs", high=len(tokens)) - 1
        places = [place for place in places if abs(place - middle) <= _SHOWN // 2]
    elif wanted and wanted != "all":
        places = [p for p in places if wanted.lower() in tokens[p].text.lower()]
        if not places:
            raise InputError(f"no token of the last passage holds '{wanted}'")
    elif not wanted:
        places = places[-_SHOWN:]
    count = _OTHERS if repl.screen.width >= _WIDE else _FEW
    rows = []
    for place in places:
        token = tokens[place]
        others = [one for one in token.before or [] if one.id != token.id][:count]
        instead = "   ".join(
            f"{number} {_visible(one.text)} {percent(one.probability)}"
            for number, one in enumerate(others, 1)
        )
        drawn = percent(token.probability) if token.after is not None else "–"
        row = (place + 1, _visible(token.text), percent(math.exp(token.logprob)), drawn,
               token.rank, instead)  # fmt: skip
        rows.append(row)
    repl.screen.table(["token#", "text", "model#", "drawn#", "rank#", "instead"], rows)
    repl.screen.note(
        f"{len(tokens)} tokens; /pick TOKEN.NUMBER takes one instead and goes on from there; "
        "/probs N, WORD or all shows others"
    )


def _visible(text: str) -> str:
    """A token's text with visible blanks."""
    return text.replace("\n", "↵").replace("\t", "→").replace(" ", "·") or "∅"


def _heat(repl: Repl, rest: str) -> None:
    session = repl.session
    every = rest.strip() == "all"
    for passage in session.story.path() if every else [last_passage(session.story)]:
        repl.screen.heat(_characters(session.tokens_of(passage)))


def _characters(tokens: Sequence[Token]) -> list[tuple[str, float]]:
    """Text and probability per token; a split character belongs to its last token."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return [(decoder.decode(token.bytes), math.exp(token.logprob)) for token in tokens]


def _why(repl: Repl, rest: str) -> None:
    if repl.explain is None:
        raise InputError("this session can't explain words", "cwgpt analyze explains a text")
    text = repl.session.view().view
    words = text.split()
    if not words:
        raise InputError("the story is empty", "type a beginning, or an empty line")
    word = rest.strip() or words[-1]
    if word not in text:
        raise InputError(f"'{word}' is not in the text that the model sees", "/context shows it")
    repl.screen.note("reading")
    repl.screen.say(repl.explain(repl.session.loaded, text, word))


def _context(repl: Repl, rest: str) -> None:
    session, screen = repl.session, repl.screen
    view, text = session.view(), session.story.text
    free = view.context_length - view.used
    rows = [
        ("memory", f"{view.tokens['memory']:,}", ""),
        ("lore", f"{view.tokens['lore']:,}", ", ".join(one.name for one in view.lore)),
        ("note", f"{view.tokens['note']:,}", ""),
        ("text", f"{view.tokens['text']:,}", f"{count_words(view.prompt):,} words"),
        ("free", f"{free:,}", f"{view.fill:.0%} of {view.context_length:,} tokens are taken"),
    ]
    screen.table(["in view", "tokens#", ""], rows)
    if view.left_out:
        screen.say(f"lore without room: {', '.join(one.name for one in view.left_out)}")
    if view.start:
        from ..generation.text import encode

        gone = len(encode(session.loaded.tokenizer, text[: view.start]))
        screen.say(f"fallen out of view: the first {gone:,} tokens, up to")
        screen.say("  … " + " ".join(text[: view.start].split())[-70:])
        screen.say("the view begins with")
        screen.say("  " + " ".join(view.prompt.split())[:70] + " …")
    if rest.strip() == "all":
        screen.say()
        screen.flow(view.view)
        screen.end_flow()
    elif text:
        screen.note("/context all shows the view itself")


def _stats(repl: Repl, _: str) -> None:
    session = repl.session
    story, path = session.story, session.story.path()
    words = {by: 0 for by in ("writer", "model")}
    for passage in path:
        words["model" if passage.by == "model" else "writer"] += count_words(passage.text)
    total = sum(words.values())
    rows = [
        ("words", f"{total:,}"),
        ("by the model", f"{words['model'] / total:.0%}" if total else "–"),
        ("chapters", sum(1 for passage in path if passage.by == "chapter")),
        ("passages", f"{len(path):,} here, {len(story.passages):,} in the tree"),
        ("branches", len(story.state.heads)),
        ("steps to undo", f"{story.cursor:,}"),
        ("tokens per second", f"{session.tokens_per_second:.1f}"),
        ("file", session.file.path),
    ]
    repl.screen.table(["", "#"], rows)


def _help(repl: Repl, rest: str) -> None:
    name = rest.strip().lstrip("/")
    if name:
        command = find(name)
        repl.screen.say(f"/{command.name} {command.words}".rstrip(), "bold")
        repl.screen.say(command.help)
        return
    rows: list[tuple[str, str]] = []
    for group in _GROUPS:
        rows += [("", "")] if rows else []
        rows += [(f"/{one.name} {one.words}".rstrip(), one.help) for one in group]
    repl.screen.table(["command", "what it does"], rows)
    repl.screen.say()
    repl.screen.say(HELP)


_GROUPS = (
    STORY_COMMANDS,
    (
        Command("memory", "[TEXT | -]", "what the model always sees first",
                partial(_text, "memory")),
        Command("note", "[TEXT | -]", "author's note, which it sees near the end",
                partial(_text, "note")),
        Command("lore", "[KEYS = TEXT | -N]", "text that enters when a key word is near", _lore),
        Command("preset", "[NAME]", "write with a preset, or list them", _preset,
                lambda session: {name: preset.why for name, preset in presets().items()}),
        Command("set", "[NAME[=VALUE]]", "show or change a setting", _set,
                lambda session: [f"{name}=" for name in session.settings.to_dict()]),
        Command("seed", "[N | none]", "the same seed writes the same text", _seed),
        Command("style", "[X]", "strength of the adapter: 0 base, 1 as trained, to 1.5", _style),
        Command("model", "[NAME]", "write with another model", _model, _models),
    ),
    (
        Command("probs", "[N | WORD | all]", "how likely each token was, and what else", _probs),
        Command("heat", "[all]", "the last passage, unlikely words marked", _heat),
        Command("why", "[WORD]", "what in the text made the model write a word", _why),
        Command("context", "[all]", "what the model sees, and what has fallen out", _context),
        Command("stats", "", "figures of the story", _stats),
    ),
    (
        *FILE_COMMANDS,
        Command("help", "[COMMAND]", "this list", _help, lambda session: list(COMMANDS)),
    ),
)  # fmt: skip
COMMANDS: dict[str, Command] = {command.name: command for group in _GROUPS for command in group}
"""Every slash command by its name."""


def find(name: str) -> Command:
    """The command of a name, or of the beginning of one where it is the only one.

    Raises:
        InputError: There is none, or there are several.
    """
    if name in COMMANDS:
        return COMMANDS[name]
    begun = [known for known in COMMANDS if name and known.startswith(name)]
    if len(begun) == 1:
        return COMMANDS[begun[0]]
    if begun:
        raise InputError(f"/{name} could be {', '.join('/' + known for known in begun)}")
    near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
    raise InputError(
        f"there is no command /{name}",
        f"did you mean /{near[0]}?" if near else "/help lists them; // begins a line with a slash",
    )


def answer(repl: Repl, line: str) -> None:
    """Do what a line asks, show what went wrong, and save."""
    screen = repl.screen
    try:
        # A surrogate, from input that is not UTF-8, could not be written to a file.
        _do(repl, line.encode("utf-8", "replace").decode())
    except UserError as error:
        screen.error(error)
    except KeyboardInterrupt:
        screen.note("stopped")
    except MemoryError:
        screen.say("error: there is not enough memory")
    except OSError as error:  # a drive that is gone, a name that is too long
        place = f"{str(error.filename)[:60]}: " if error.filename else ""
        screen.error(RunError(f"{place}{error.strerror or error}"))
    except Exception as error:  # whatever it is, the story must not be lost with the session
        if os.environ.get("CWGPT_DEBUG"):
            traceback.print_exc()
        reason = (str(error).strip().splitlines() or [""])[0][:300]
        screen.error(RunError(f"{type(error).__name__}: {reason}", "this should not happen"))
    try:
        with repl.signals.writing():  # Ctrl-C must not interrupt the save
            repl.autosave()
    except KeyboardInterrupt:
        screen.note("stopped")


def _do(repl: Repl, line: str) -> None:
    bare = line.strip()
    if bare in ("help", "quit", "exit", "?"):
        bare = {"exit": "/quit", "?": "/help"}.get(bare, f"/{bare}")
    if bare.startswith("/") and not bare.startswith("//"):
        name, _, rest = bare[1:].partition(" ")
        find(name.lower()).run(repl, rest)
        return
    text = typed(line[line.index("//") + 1 :] if bare.startswith("//") else line)
    if text.strip():
        story = repl.session.story
        story.write(joined(story.text, text))
        repl.autosave()
        repl.offered = []
    repl.go_on()
