"""Commands that change the story: go on, try again, pick, undo, edit, branch."""

from __future__ import annotations

from collections.abc import Iterable

from ...errors import InputError
from ..story.tree import NOTHING, Passage, Story
from . import editor
from .command import Command, number, typed
from .session import Session
from .writing import go_on, new_seed, record_of, several, shown_tokens, write

_MOST_ALTERNATIVES = 16


def _continue(session: Session, rest: str) -> None:
    settings = session.settings
    if rest.strip():
        count = number(rest, "/continue", high=100_000)
        session.settings = settings.changed(
            {"max_new_tokens": count, "min_new_tokens": min(count, settings.min_new_tokens)}
        )
    try:
        go_on(session)
    finally:
        session.settings = settings


def _retry(session: Session, rest: str) -> None:
    last = _last(session.story)
    if last.by != "model":
        raise InputError(
            "the last passage is not the model's", "an empty line lets the model go on after it"
        )
    seed = number(rest, "/retry", low=0, high=2**31 - 1) if rest.strip() else None
    if seed is None and session.settings.seed is not None:
        seed = (last.seed or session.settings.seed) + 1  # the same one would say the same again
    if go_on(session, last.parent, seed=seed, did="retry") is not None:
        _take_versions(session)


def _take_versions(session: Session) -> None:
    """What /pick takes when nothing else was offered: all versions of the last passage."""
    session.offered = [passage.id for passage in session.story.versions()]
    if len(session.offered) > 1:
        session.screen.note(f"version {len(session.offered)}; /pick shows them all")


def _alt(session: Session, rest: str) -> None:
    count = number(rest, "/alt", low=2, high=_MOST_ALTERNATIVES, default=3)
    passages = several(session, count)
    session.offer([p.id for p in passages], [f"seed {p.seed}" for p in passages])


def _pick(session: Session, rest: str) -> None:
    story = session.story
    if "." in rest:
        _pick_word(session, rest)
        return
    if not session.offered:
        session.offered = [passage.id for passage in story.versions()]
    if not session.offered:
        raise InputError("there is nothing to pick from", "/alt writes alternatives")
    if not rest.strip():
        session.offer(session.offered, [_label(session, place) for place in session.offered])
        return
    chosen = number(rest, "/pick", high=len(session.offered))
    passage = session.offered[chosen - 1]
    story.go(passage, "pick")
    session.screen.flow(story.passages[passage].text)
    session.screen.end_flow()


def _label(session: Session, place: int) -> str:
    passage = session.story.passages[place]
    here = " (this one)" if place == session.story.state.head else ""
    return (f"seed {passage.seed}" if passage.seed is not None else "yours") + here


def _pick_word(session: Session, rest: str) -> None:
    """``/pick 12.2``: alternative 2 in the place of token 12, and on from there."""
    last = _last(session.story)
    place, _, choice = rest.strip().partition(".")
    tokens = record_of(session, last)
    index = number(place, "/pick", high=len(tokens)) - 1
    others = [one for one in tokens[index].before or [] if one.id != tokens[index].id]
    chosen = others[number(choice, "/pick", high=max(len(others), 1)) - 1] if others else None
    if chosen is None or "\ufffd" in chosen.text or chosen.text.startswith("<|"):
        raise InputError("that alternative is no text of its own", "/probs lists the others")
    before = "".join(text for text, _ in shown_tokens(tokens[:index]))
    parent = last.parent
    if before:
        kept = session.story.offer(
            before, parent, by=last.by, setup=last.setup, seed=last.seed, start=last.start,
            copy_of=last.id,
        )  # fmt: skip
        session.tokens[kept.id] = tokens[:index]
        parent = kept.id
    session.story.write(chosen.text, parent, did="pick")
    session.screen.flow(before + chosen.text)
    go_on(session)


def _undo(session: Session, rest: str) -> None:
    undone = session.story.undo(number(rest, "/undo"))
    if not undone:
        raise InputError("there is nothing to undo")
    session.offered = []
    session.screen.note("undone: " + ", ".join(undone))
    show_end(session)


def _redo(session: Session, rest: str) -> None:
    done = session.story.redo(number(rest, "/redo"))
    if not done:
        raise InputError("there is nothing to redo")
    session.offered = []
    session.screen.note("done again: " + ", ".join(done))
    show_end(session)


def _edit(session: Session, rest: str) -> None:
    story = session.story
    if rest.strip():
        last = _last(story)
        changed = story.edit(story.text_at(last.parent) + typed(rest))
    else:
        changed = story.edit(editor.edit(story.text))
    session.offered = []
    session.screen.note("edited; /undo takes it back" if changed else "nothing was changed")
    if changed:
        show_end(session)


def _branch(session: Session, rest: str) -> None:
    name = session.story.branch(rest)
    session.screen.note(f"on branch '{name}' now; /goto goes back to another")


def _branches(session: Session, _: str) -> None:
    story = session.story
    rows = []
    for name, head in story.state.heads:
        path, here = story.path(head), "*" if name == story.state.branch else ""
        words = sum(len(passage.text.split()) for passage in path)
        end = " ".join((path[-1].text if path else "").split())
        end = f"… {end[-46:]}" if len(end) > 48 else end
        rows.append((here, name, len(path), f"{words:,}", end))
    session.screen.table(["", "branch", "passages#", "words#", "ends"], rows)
    passages = [
        (place, passage.by, " ".join(passage.text.split())[:60])
        for place, passage in enumerate(story.path(), 1)
    ]
    session.screen.say()
    session.screen.table(["passage#", "by", "begins"], passages[-12:])
    session.screen.note("/goto BRANCH or PASSAGE")


def _goto(session: Session, rest: str) -> None:
    story, name = session.story, " ".join(rest.split())
    if not name:
        raise InputError("/goto takes a branch or the number of a passage", "/branches lists them")
    if name in dict(story.state.heads):
        story.switch(name)
    else:
        path = story.path()
        if not name.isdigit():
            raise InputError(f"there is no branch '{name}'", "/branches lists them")
        place = number(name, "/goto", low=0, high=len(path), default=0)
        made = story.branch(at=path[place - 1].id if place else NOTHING)
        session.screen.note(f"on '{made}', which begins there; nothing of the other is lost")
    session.offered = []
    show_end(session)


def _chapter(session: Session, rest: str) -> None:
    if rest.strip():
        passage = session.story.chapter(typed(rest))
        session.screen.flow(passage.text)
        session.screen.end_flow()
        return
    rows = [
        (number, title or "(before the first)", f"{len(text.split()):,}")
        for number, (title, text) in enumerate(session.story.chapters(), 1)
    ]
    session.screen.table(["#", "chapter", "words#"], rows)


def _title(session: Session, rest: str) -> None:
    title = " ".join(typed(rest).split())
    if title:
        session.story.set("title", title=title)
    session.screen.note(f"title: {session.story.state.title or 'none yet'}")


def _compare(session: Session, rest: str) -> None:
    voice = session.voice
    if not voice.adapters:
        raise InputError(
            f"{session.model} has no adapter, so there is nothing to compare it with",
            "/model takes an adapter folder, as outputs/best_model",
        )
    seed = session.settings.seed
    if seed is None:
        seed = new_seed()
    session.screen.note(f"base and tuned, both with seed {seed}")
    with voice.writer.base():
        [(base, _one)] = write(session, None, [seed], adapters=False)
    [(tuned, _one)] = write(session, None, [seed])
    found = [(p.id, name) for p, name in ((base, "base"), (tuned, "tuned")) if p is not None]
    session.offer([place for place, _ in found], [name for _, name in found])


def _last(story: Story) -> Passage:
    if story.last is None:
        raise InputError("the story is empty", "type a beginning, or an empty line")
    return story.last


def show_end(session: Session, most: int = 600) -> None:
    """Show the last part of the story, from a paragraph on where there is one."""
    text = session.story.text
    if not text:
        return
    start = max(0, len(text) - most)
    if start:
        cut = text.find("\n", start, len(text) - 80)
        start = cut + 1 if cut >= 0 else text.find(" ", start, start + 40) + 1 or start
    session.screen.say()
    session.screen.flow(("… " if start else "") + text[start:].lstrip("\n"))
    session.screen.end_flow()


def _branch_names(session: Session) -> Iterable[str]:
    return [name for name, _ in session.story.state.heads]


COMMANDS = (
    Command("continue", "[TOKENS]", "let the model go on; so does an empty line", _continue),
    Command("retry", "[SEED]", "another version of the model's last passage", _retry),
    Command("alt", "[N]", "write N ways to go on, to pick one [3]", _alt),
    Command("pick", "[N | TOKEN.ALT]", "take a version, or another word of /probs", _pick),
    Command("undo", "[N]", "take back the last change, whatever it was", _undo),
    Command("redo", "[N]", "take back an undo", _redo),
    Command("edit", "[TEXT]", "the text in $EDITOR; or TEXT for the last passage", _edit),
    Command("branch", "[NAME]", "start a branch here", _branch),
    Command("branches", "", "list branches and passages", _branches),
    Command("goto", "BRANCH | N", "go to a branch, or branch off after passage N", _goto,
            _branch_names),
    Command("chapter", "[TITLE]", "begin a chapter, or list them", _chapter),
    Command("title", "[TITLE]", "the story's title", _title),
    Command("compare", "", "base and tuned model go on, with the same seed", _compare),
)  # fmt: skip
