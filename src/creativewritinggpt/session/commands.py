"""The slash commands of a session: what each does to the story, its settings and its files.

A command is a function of a :class:`~.repl.Repl` and the rest of the line.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from ..data.text import count_words
from ..errors import InputError
from ..files import from_home, same_place
from ..generation.sampling.settings import SEEDS, GenerationSettings, presets, unescape
from ..generation.style import parse_strength, set_strength
from ..story import choices
from ..story.exchange import ENDINGS, IMPORTED, KNOWN, import_story
from ..story.file import FOLDER, read_story, stories
from ..story.tree import NOTHING, Lore, Story
from .repl import HELP, Command, Repl, find, joined, typed, whole_number
from .screen import brief, characters, edit, percent, visible
from .session import Session
from .versions import alternatives, compare, last_passage, pick, retry

_SHOWN = 20  # tokens in /probs
# Alternatives per row of /probs, by the width of the screen.
_FEW, _OTHERS, _WIDE = 3, 5, 110
_LISTED = 12  # passages that /branches shows
_STORIES = 20  # stories that /load lists


def _continue(repl: Repl, rest: str) -> None:
    session = repl.session
    settings = session.settings
    if rest.strip():
        count = whole_number(rest, "/continue", high=100_000)
        session.settings = settings.changed(
            {"max_new_tokens": count, "min_new_tokens": min(count, settings.min_new_tokens)}
        )
    try:
        repl.go_on()
    finally:
        session.settings = settings


def _step(back: bool, repl: Repl, rest: str) -> None:
    """Undo or redo, and show where the story ends now; what was offered before is withdrawn."""
    story, name = repl.session.story, "undo" if back else "redo"
    done = (choices.undo if back else choices.redo)(story, whole_number(rest, f"/{name}"))
    if not done:
        raise InputError(f"there is nothing to {name}")
    repl.screen.note(("undone: " if back else "done again: ") + ", ".join(done))
    _moved(repl)


def _moved(repl: Repl) -> None:
    repl.offered = []
    repl.show_end()


def _edit(repl: Repl, rest: str) -> None:
    story = repl.session.story
    if rest.strip():
        before = story.text_at(last_passage(story).parent)
        changed = choices.edit(story, before + joined(before, typed(rest)))
    else:
        changed = choices.edit(story, edit(story.text))
    repl.offered = []
    repl.screen.note("edited; /undo takes it back" if changed else "nothing was changed")
    if changed:
        repl.show_end()


def _branch(repl: Repl, rest: str) -> None:
    name = repl.session.story.branch(rest)
    repl.screen.note(f"on branch '{name}' now; /goto goes back to another")


def _branches(repl: Repl, rest: str) -> None:
    story, screen, every = repl.session.story, repl.screen, rest.strip() == "all"
    rows = []
    for name, head in story.state.heads:
        here = "*" if name == story.state.branch else ""
        rows.append((here, name, *_figures(story, head)))
    screen.table(["", "branch", "passages#", "words#", "ends"], rows)
    passages = [(place, one.by, brief(one.text)) for place, one in enumerate(story.path(), 1)]
    aside = [(f"#{one.id}", *_figures(story, one.id)) for one in story.ends()]
    if passages:
        screen.say()
        screen.table(["passage#", "by", "begins"], passages if every else passages[-_LISTED:])
    if aside:
        screen.say()
        columns = ["set aside#", "passages#", "words#", "ends"]
        screen.table(columns, aside if every else aside[-_LISTED:])
    left = not every and max(len(passages), len(aside)) > _LISTED
    screen.note("/goto BRANCH, PASSAGE or #NUMBER" + ("; /branches all lists all" if left else ""))


def _figures(story: Story, head: int) -> tuple[int, str, str]:
    """Number of passages and words up to passage ``head``, and its last words."""
    path = story.path(head)
    words = sum(count_words(passage.text) for passage in path)
    return len(path), f"{words:,}", brief(path[-1].text if path else "", 48, last=True)


def _goto(repl: Repl, rest: str) -> None:
    story, name = repl.session.story, " ".join(rest.split())
    if not name:
        raise InputError("/goto takes a branch or the number of a passage", "/branches lists them")
    if name in dict(story.state.heads):
        story.switch(name)
    elif name.startswith("#"):
        if not story.passages:
            raise InputError("the story is empty", "type a beginning, or an empty line")
        wanted = whole_number(name[1:], "/goto #", low=0, high=len(story.passages) - 1)
        repl.screen.note(f"on '{story.branch(at=wanted)}' now, with what was set aside")
    else:
        path = story.path()
        if not name.isdigit():
            raise InputError(f"there is no branch '{name}'", "/branches lists them")
        place = whole_number(name, "/goto", low=0, high=len(path), default=0)
        made = story.branch(at=path[place - 1].id if place else NOTHING)
        repl.screen.note(f"on '{made}', which begins there; nothing of the other is lost")
    _moved(repl)


def _chapter(repl: Repl, rest: str) -> None:
    story = repl.session.story
    if rest.strip():
        passage = story.chapter(typed(rest))
        repl.screen.flow(passage.text)
        repl.screen.end_flow()
        return
    rows = [
        (number, title or "(before the first)", f"{count_words(text):,}")
        for number, (title, text) in enumerate(story.chapters(), 1)
    ]
    if rows:
        repl.screen.table(["#", "chapter", "words#"], rows)
    else:
        repl.screen.note("no chapters yet; /chapter TITLE begins one")


def _title(repl: Repl, rest: str) -> None:
    title = " ".join(typed(rest).split())
    if title:
        repl.session.story.set("title", title=title)
    repl.screen.note(f"title: {repl.session.story.state.title or 'none yet'}")


def _save(repl: Repl, rest: str) -> None:
    session = repl.session
    if not rest.strip():
        session.save()
        repl.screen.note(f"saved in {session.file.path}")
        return
    session.save_as(rest.strip())
    repl.offered = []
    repl.screen.note(f"saved in {session.file.path}, which is the story's file from now on")


def _load(repl: Repl, rest: str) -> None:
    session, name = repl.session, rest.strip()
    if not name:
        _list(repl)
        return
    path = from_home(name)
    if name.isdigit() and not path.exists():
        found = stories(session.file.path)
        if not found:
            raise InputError(f"{name} does not exist")
        path = found[whole_number(name, "/load", high=min(len(found), _STORIES)) - 1]
        name = str(path)
    if same_place(path, session.file.path):
        raise InputError(f"{name} is the story that is open")
    before = session.story
    for remark in session.open(path):
        repl.screen.note(remark)
    if session.story is not before:
        _moved(repl)


def _list(repl: Repl) -> None:
    """List the stories, newest first."""
    here, rows = repl.session.file.path, []
    for place, path in enumerate(stories(here)[:_STORIES], 1):
        day = datetime.datetime.fromtimestamp(path.stat().st_mtime).strftime("%Y-%m-%d %H:%M")
        try:
            story = read_story(path)
        except InputError as error:
            rows.append((place, str(path), day, "–", error.message))
            continue
        opened = " (open)" if same_place(path, here) else ""
        words = count_words(story.text)
        rows.append((place, f"{path}{opened}", day, f"{words:,}", story.state.title))
    if not rows:
        raise InputError(
            f"there are no stories in {FOLDER}/ yet",
            f"/load FILE opens a story's .json, or brings in a file of another program; {KNOWN}",
        )
    repl.screen.table(["#", "story", "changed", "words#", "title"], rows)
    repl.screen.note(f"/load NUMBER or FILE; {KNOWN}")


def _export(repl: Repl, rest: str) -> None:
    session, name = repl.session, rest.strip()
    if not name:
        raise InputError(
            "/export takes a file, or an ending alone", f"known endings: {' '.join(ENDINGS)}"
        )
    path, replaced = session.export(name)
    repl.screen.note(f"{'replaced' if replaced else 'written'}: {path}")


def _files(session: Session) -> Iterable[str]:
    texts = sorted(path for path in Path().glob("*.*") if path.suffix.lower() in IMPORTED)
    return list(dict.fromkeys(map(str, (*stories(session.file.path), *texts))))


def _text(name: str, repl: Repl, rest: str) -> None:
    """Show or set memory or note; a single dash empties it."""
    story = repl.session.story
    if rest.strip():
        story.set(name, **{name: "" if rest.strip() == "-" else typed(rest).strip()})
    repl.screen.note(f"{name}: {getattr(story.state, name) or 'empty'}")


def _lore(repl: Repl, rest: str) -> None:
    story, rest = repl.session.story, rest.strip()
    entries = list(story.state.lore)
    verb, _, name = rest.partition(" ")
    if verb == "import" and "=" not in rest:
        for remark in repl.session.add_lore(import_story(name.strip())):
            repl.screen.note(remark)
        return
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
    rows = [(place, lore.condition, lore.text) for place, lore in enumerate(story.state.lore, 1)]
    repl.screen.table(["#", "key words", "text"], rows)


def _preset(repl: Repl, rest: str) -> None:
    session, name = repl.session, rest.strip()
    if name:
        session.use_preset(name)
        repl.screen.note(f"preset {name}: {presets()[name].why}" if name in presets() else name)
        return
    mark = session.preset_name
    repl.screen.table(
        ["", "preset", "why"],
        [("*" if name == mark else "", name, one.why) for name, one in presets().items()],
    )


def _set(repl: Repl, rest: str) -> None:
    session = repl.session
    # People write both NAME=VALUE and NAME VALUE.
    name, equals, value = rest.strip().partition("=" if "=" in rest else " ")
    key = name.strip().replace("-", "_")
    if equals:
        given = None if value.strip() in ("", "none") else unescape(value.strip())
        session.settings = session.settings.changed({key: given}, "/set")
        for unused, why in session.settings.without_effect([key]).items():
            repl.screen.note(f"{unused} has no effect: {why}")
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
            f"{number} {visible(one.text)} {percent(one.probability)}"
            for number, one in enumerate(others, 1)
        )
        drawn = percent(token.probability) if token.after is not None else "–"
        row = (place + 1, visible(token.text), percent(math.exp(token.logprob)), drawn,
               token.rank, instead)  # fmt: skip
        rows.append(row)
    repl.screen.table(["token#", "text", "model#", "drawn#", "rank#", "instead"], rows)
    repl.screen.note(
        f"{len(tokens)} tokens; /pick TOKEN.NUMBER takes one instead and goes on from there; "
        "/probs N, WORD or all shows others"
    )


def _heat(repl: Repl, rest: str) -> None:
    session = repl.session
    every = rest.strip() == "all"
    for passage in session.story.path() if every else [last_passage(session.story)]:
        repl.screen.heat(characters(session.tokens_of(passage)))


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
        command = find(COMMANDS, name)
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
    (
        Command("continue", "[TOKENS]", "let the model go on; so does an empty line", _continue),
        Command("retry", "[SEED]", "another version of the model's last passage", retry),
        Command("alt", "[N]", "write N ways to go on, to pick one [3]", alternatives),
        Command("pick", "[N | TOKEN.ALT]", "take a version, or another word of /probs", pick),
        Command("undo", "[N]", "take back the last change, whatever it was",
                partial(_step, True)),
        Command("redo", "[N]", "take back an undo", partial(_step, False)),
        Command("edit", "[TEXT]", "the text in $EDITOR; or TEXT for the last passage", _edit),
        Command("branch", "[NAME]", "start a branch here", _branch),
        Command("branches", "[all]", "list branches, passages, and what was set aside", _branches),
        Command("goto", "BRANCH | N | #N", "go to a branch, or branch off after passage N", _goto,
                lambda session: dict(session.story.state.heads)),
        Command("chapter", "[TITLE]", "begin a chapter, or list them", _chapter),
        Command("title", "[TITLE]", "the story's title", _title),
        Command("compare", "", "base and tuned model go on, with the same seed", compare),
    ),
    (
        Command("memory", "[TEXT | -]", "what the model always sees first",
                partial(_text, "memory")),
        Command("note", "[TEXT | -]", "author's note, which it sees near the end",
                partial(_text, "note")),
        Command("lore", "[KEYS = TEXT | -N | import FILE]",
                "text that enters when a key word is near", _lore),
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
        Command("save", "[FILE]", "save now; with FILE, go on in a copy", _save),
        Command("load", "[FILE | N]", "open a story or bring in a text, or list the stories", _load,
                _files),
        Command("export", "FILE", "a manuscript: .txt .md .html .docx .epub .json", _export,
                lambda session: [str(session.file.path.with_suffix(one)) for one in ENDINGS[:-1]]),
        Command("quit", "", "leave; so does Ctrl-D",
                lambda repl, _: setattr(repl, "leaving", True)),
        Command("help", "[COMMAND]", "this list", _help, lambda session: list(COMMANDS)),
    ),
)  # fmt: skip
COMMANDS: dict[str, Command] = {command.name: command for group in _GROUPS for command in group}
"""Every slash command by its name."""
