"""Commands that change the story or its files: write, pick, undo, edit, branch, save, export."""

from __future__ import annotations

import codecs
import datetime
from collections.abc import Iterable
from pathlib import Path

from ..data.text import count_words
from ..errors import InputError
from ..files import from_home
from ..generation.sampling.settings import SEEDS, seeds_from
from ..story.exports import ENDINGS, export_story
from ..story.file import FOLDER, StoryFile, free_path, is_story, read_story, stories, story_file
from ..story.imports import import_story
from ..story.tree import NOTHING, Passage, Story
from .repl import Command, Repl, edit, joined, typed, whole_number
from .session import Session

_MOST_ALTERNATIVES = 16
_LISTED = 12  # passages that /branches shows
_STORIES = 20  # stories that /load lists


def last_passage(story: Story) -> Passage:
    """The last passage of the branch.

    Raises:
        InputError: The story is empty.
    """
    if story.last is None:
        raise InputError("the story is empty", "type a beginning, or an empty line")
    return story.last


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


def _retry(repl: Repl, rest: str) -> None:
    story, settings = repl.session.story, repl.session.settings
    last = last_passage(story)
    if last.by != "model":
        raise InputError(
            "the last passage is not the model's", "an empty line lets the model go on after it"
        )
    seed = whole_number(rest, "/retry", low=0, high=SEEDS - 1) if rest.strip() else None
    if seed is None and settings.seed is not None:
        # The same seed would give the same text.
        seed = seeds_from(settings.seed if last.seed is None else last.seed, 2)[1]
    if repl.go_on(last.parent, seed=seed, did="retry") is not None:
        repl.offered = [passage.id for passage in story.versions()]
        if len(repl.offered) > 1:
            repl.screen.note(f"version {len(repl.offered)}; /pick shows them all")


def _alt(repl: Repl, rest: str) -> None:
    count = whole_number(rest, "/alt", low=2, high=_MOST_ALTERNATIVES, default=3)
    first = repl.session.new_seed()
    repl.screen.note(f"writing {count} alternatives")
    repl.heading(1, f"seed {first}")
    written = [passage for passage, _ in repl.write(None, seeds_from(first, count))]
    found = [passage for passage in written if passage is not None]
    shown = int(written[0] is not None)
    repl.offer([p.id for p in found], [f"seed {p.seed}" for p in found], shown)


def _pick(repl: Repl, rest: str) -> None:
    story = repl.session.story
    if "." in rest:
        _pick_word(repl, rest)
        return
    if not repl.offered:
        repl.offered = [passage.id for passage in story.versions()]
    if not repl.offered:
        raise InputError("there is nothing to pick from", "/alt writes alternatives")
    if not rest.strip():
        repl.offer(repl.offered, [_label(story, place) for place in repl.offered])
        return
    passage = repl.offered[whole_number(rest, "/pick", high=len(repl.offered)) - 1]
    story.go(passage, "pick")
    repl.screen.flow(story.passages[passage].text)
    repl.screen.end_flow()


def _label(story: Story, place: int) -> str:
    seed, here = story.passages[place].seed, " (this one)" if place == story.state.head else ""
    return (f"seed {seed}" if seed is not None else "yours") + here


def _pick_word(repl: Repl, rest: str) -> None:
    """``/pick 12.2``: replace token 12 by its alternative 2 and go on from there."""
    session = repl.session
    last = last_passage(session.story)
    place, _, choice = rest.strip().partition(".")
    tokens = session.tokens_of(last)
    index = whole_number(place, "/pick", high=len(tokens)) - 1
    others = [one for one in tokens[index].before or [] if one.id != tokens[index].id]
    number = whole_number(choice, "/pick", high=max(len(others), 1)) if others else 1
    chosen = others[number - 1] if others else None
    if chosen is None or "\ufffd" in chosen.text or chosen.text.startswith("<|"):
        raise InputError("that alternative is no text of its own", "/probs lists the others")
    # An incomplete character at the end is left out.
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    before = decoder.decode(b"".join(token.bytes for token in tokens[:index]))
    parent = last.parent
    if before:
        kept = session.story.offer(
            before, parent, by=last.by, setup=last.setup, seed=last.seed, start=last.start,
            copy_of=last.id,
        )  # fmt: skip
        session.tokens[kept.id] = tokens[:index]
        parent = kept.id
    session.story.write(chosen.text, parent, did="pick")
    repl.screen.flow(before + chosen.text)
    repl.go_on()


def _undo(repl: Repl, rest: str) -> None:
    undone = repl.session.story.undo(whole_number(rest, "/undo"))
    if not undone:
        raise InputError("there is nothing to undo")
    repl.screen.note("undone: " + ", ".join(undone))
    _moved(repl)


def _redo(repl: Repl, rest: str) -> None:
    done = repl.session.story.redo(whole_number(rest, "/redo"))
    if not done:
        raise InputError("there is nothing to redo")
    repl.screen.note("done again: " + ", ".join(done))
    _moved(repl)


def _moved(repl: Repl) -> None:
    """Show where the story ends now; what was offered before is withdrawn."""
    repl.offered = []
    repl.show_end()


def _edit(repl: Repl, rest: str) -> None:
    story = repl.session.story
    if rest.strip():
        before = story.text_at(last_passage(story).parent)
        changed = story.edit(before + joined(before, typed(rest)))
    else:
        changed = story.edit(edit(story.text))
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
    passages = [(place, one.by, _brief(one.text)) for place, one in enumerate(story.path(), 1)]
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
    return len(path), f"{words:,}", _brief(path[-1].text if path else "", 48, last=True)


def _brief(text: str, most: int = 60, *, last: bool = False) -> str:
    """The beginning of a text, or its end, on one line; cut between words."""
    text = " ".join(text.split())
    if len(text) <= most:
        return text
    if last:
        text = text[2 - most :]
        return "… " + (text.partition(" ")[2] or text)
    text = text[: most - 2]
    return (text.rpartition(" ")[0] or text) + " …"


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


def _compare(repl: Repl, rest: str) -> None:
    session = repl.session
    model = session.model
    if not model.adapters:
        raise InputError(
            f"{session.model_name} has no adapter, so there is nothing to compare it with",
            "/model takes an adapter folder, as outputs/best_model",
        )
    seed = session.new_seed()
    repl.screen.note(f"base and tuned, both with seed {seed}")
    repl.heading(1, "base")
    with model.loaded.base():
        [(base, _)] = repl.write(None, [seed], adapters=False)
    repl.heading(2, "tuned")
    [(tuned, _)] = repl.write(None, [seed])
    found = [(p.id, name) for p, name in ((base, "base"), (tuned, "tuned")) if p is not None]
    repl.offer([place for place, _ in found], [name for _, name in found], len(found))


def _save(repl: Repl, rest: str) -> None:
    session = repl.session
    if not rest.strip():
        session.save()
        repl.screen.note(f"saved in {session.file.path}")
        return
    file = story_file(rest.strip())
    if file.path.exists():
        raise InputError(f"{file.path} is there already", "choose another name")
    file.open()
    try:
        file.save(session.story)
    except BaseException:
        file.close()
        raise
    session.take(file, session.story)
    repl.offered = []
    repl.screen.note(f"saved in {file.path}, which is the story's file from now on")


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
    if not path.exists():
        raise InputError(f"{name} does not exist", "/load lists the stories that are here")
    if path.resolve() == session.file.path.resolve():
        raise InputError(f"{name} is the story that is open")
    if path.suffix.lower() == ".json" and is_story(path):
        file = StoryFile(path)
        session.take(file, file.open())
    else:
        story = import_story(path)
        session.take(StoryFile(free_path(Path(FOLDER) / f"{path.stem}.json")), story)
    repl.screen.note(f"{session.story.state.title or name}: {len(session.story.path())} passages")
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
        opened = " (open)" if path.resolve() == here.resolve() else ""
        words = count_words(story.text)
        rows.append((place, f"{path}{opened}", day, f"{words:,}", story.state.title))
    if not rows:
        raise InputError(
            f"there are no stories in {FOLDER}/ yet",
            "/load FILE opens a story's .json, or brings in .txt, .md, KoboldAI's, mikupad's",
        )
    repl.screen.table(["#", "story", "changed", "words#", "title"], rows)
    repl.screen.note("/load NUMBER or FILE; .txt, .md, KoboldAI's and mikupad's are brought in")


def _export(repl: Repl, rest: str) -> None:
    session, name = repl.session, rest.strip()
    if not name:
        raise InputError(
            "/export takes a file, or an ending alone", f"known endings: {' '.join(ENDINGS)}"
        )
    path = from_home(name)
    if f".{name.lstrip('.')}" in ENDINGS:
        path = session.file.path.with_suffix(f".{name.lstrip('.')}")
    if path.resolve() == session.file.path.resolve():
        raise InputError(f"{path} is the story's own file", "give another name")
    there = path.exists()
    if there and path.resolve() not in repl.exported:
        if path.suffix.lower() == ".json":  # perhaps another story, with its whole tree
            raise InputError(f"{path} is there already", "give another name")
        repl.exported.add(path.resolve())
        raise InputError(f"{path} is there already", "the same command again replaces it")
    export_story(session.story, path)
    repl.exported.add(path.resolve())
    repl.screen.note(f"{'replaced' if there else 'written'}: {path}")


def _quit(repl: Repl, _: str) -> None:
    repl.leaving = True


def _branch_names(session: Session) -> Iterable[str]:
    return [name for name, _ in session.story.state.heads]


def _files(session: Session) -> Iterable[str]:
    texts = sorted([*Path().glob("*.txt"), *Path().glob("*.md")])
    return [str(path) for path in (*stories(session.file.path), *texts)]


def _manuscripts(session: Session) -> Iterable[str]:
    return [str(session.file.path.with_suffix(ending)) for ending in ENDINGS if ending != ".json"]


STORY_COMMANDS = (
    Command("continue", "[TOKENS]", "let the model go on; so does an empty line", _continue),
    Command("retry", "[SEED]", "another version of the model's last passage", _retry),
    Command("alt", "[N]", "write N ways to go on, to pick one [3]", _alt),
    Command("pick", "[N | TOKEN.ALT]", "take a version, or another word of /probs", _pick),
    Command("undo", "[N]", "take back the last change, whatever it was", _undo),
    Command("redo", "[N]", "take back an undo", _redo),
    Command("edit", "[TEXT]", "the text in $EDITOR; or TEXT for the last passage", _edit),
    Command("branch", "[NAME]", "start a branch here", _branch),
    Command("branches", "[all]", "list branches, passages, and what was set aside", _branches),
    Command("goto", "BRANCH | N | #N", "go to a branch, or branch off after passage N", _goto,
            _branch_names),
    Command("chapter", "[TITLE]", "begin a chapter, or list them", _chapter),
    Command("title", "[TITLE]", "the story's title", _title),
    Command("compare", "", "base and tuned model go on, with the same seed", _compare),
)  # fmt: skip
FILE_COMMANDS = (
    Command("save", "[FILE]", "save now; with FILE, go on in a copy", _save),
    Command("load", "[FILE | N]", "open a story or bring in a text, or list the stories", _load,
            _files),
    Command("export", "FILE", "a manuscript: .txt .md .html .docx .epub .json", _export,
            _manuscripts),
    Command("quit", "", "leave; so does Ctrl-D", _quit),
)  # fmt: skip
