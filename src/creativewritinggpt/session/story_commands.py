"""Commands that change the story: go on, try again, pick, undo, edit, branch."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import InputError
from ..generation.sampling.settings import SEEDS, seeds_from
from ..story.tree import NOTHING, Passage, Story
from . import editor
from .command import Command, joined, number, typed
from .session import Session
from .writing import go_on, new_seed, record_of, several, shown_tokens, write

_MOST_ALTERNATIVES = 16
_LISTED = 12  # passages that /branches shows


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
    seed = number(rest, "/retry", low=0, high=SEEDS - 1) if rest.strip() else None
    if seed is None and session.settings.seed is not None:
        # The same one would say the same again.
        seed = seeds_from(session.settings.seed if last.seed is None else last.seed, 2)[1]
    if go_on(session, last.parent, seed=seed, did="retry") is not None:
        _take_versions(session)


def _take_versions(session: Session) -> None:
    """What /pick takes when nothing else was offered: all versions of the last passage."""
    session.offered = [passage.id for passage in session.story.versions()]
    if len(session.offered) > 1:
        session.screen.note(f"version {len(session.offered)}; /pick shows them all")


def _alt(session: Session, rest: str) -> None:
    count = number(rest, "/alt", low=2, high=_MOST_ALTERNATIVES, default=3)
    several(session, count)


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
        before = story.text_at(last.parent)
        changed = story.edit(before + joined(before, typed(rest)))
    else:
        changed = story.edit(editor.edit(story.text))
    session.offered = []
    session.screen.note("edited; /undo takes it back" if changed else "nothing was changed")
    if changed:
        show_end(session)


def _branch(session: Session, rest: str) -> None:
    name = session.story.branch(rest)
    session.screen.note(f"on branch '{name}' now; /goto goes back to another")


def _branches(session: Session, rest: str) -> None:
    story, most = session.story, None if rest.strip() == "all" else _LISTED
    rows = []
    for name, head in story.state.heads:
        here = "*" if name == story.state.branch else ""
        rows.append((here, name, *_figures(story, head)))
    session.screen.table(["", "branch", "passages#", "words#", "ends"], rows)
    passages = [
        (place, passage.by, _brief(passage.text)) for place, passage in enumerate(story.path(), 1)
    ]
    if passages:
        session.screen.say()
        shown = passages[-most:] if most else passages
        session.screen.table(["passage#", "by", "begins"], shown)
    ends = story.ends()
    if ends:
        session.screen.say()
        aside = [
            (f"#{passage.id}", *_figures(story, passage.id))
            for passage in (ends[-most:] if most else ends)
        ]
        session.screen.table(["set aside#", "passages#", "words#", "ends"], aside)
    left = len(passages) > len(passages[-_LISTED:]) or len(ends) > _LISTED
    session.screen.note(
        "/goto BRANCH, PASSAGE or #NUMBER" + ("; /branches all lists all" if left and most else "")
    )


def _figures(story: Story, head: int) -> tuple[int, str, str]:
    """Passages, words and the last words of what ends in a passage."""
    path = story.path(head)
    words = sum(len(passage.text.split()) for passage in path)
    return len(path), f"{words:,}", _brief(path[-1].text if path else "", 48, last=True)


def _brief(text: str, most: int = 60, *, last: bool = False) -> str:
    """One line of a text: its beginning, or its end; cut between words."""
    text = " ".join(text.split())
    if len(text) <= most:
        return text
    if last:
        text = text[2 - most :]
        return "… " + (text.partition(" ")[2] or text)
    text = text[: most - 2]
    return (text.rpartition(" ")[0] or text) + " …"


def _goto(session: Session, rest: str) -> None:
    story, name = session.story, " ".join(rest.split())
    if not name:
        raise InputError("/goto takes a branch or the number of a passage", "/branches lists them")
    if name in dict(story.state.heads):
        story.switch(name)
    elif name.startswith("#"):
        if not story.passages:
            raise InputError("the story is empty", "type a beginning, or an empty line")
        wanted = number(name[1:], "/goto #", low=0, high=len(story.passages) - 1)
        session.screen.note(f"on '{story.branch(at=wanted)}' now, with what was set aside")
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
    if not session.story.chapters():
        session.screen.note("no chapters yet; /chapter TITLE begins one")
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
    session.head(1, "base")
    with voice.writer.base():
        [(base, _one)] = write(session, None, [seed], show=True, adapters=False)
    session.head(2, "tuned")
    [(tuned, _one)] = write(session, None, [seed], show=True)
    found = [(p.id, name) for p, name in ((base, "base"), (tuned, "tuned")) if p is not None]
    session.offer([place for place, _ in found], [name for _, name in found], len(found))


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
    Command("branches", "[all]", "list branches, passages, and what was set aside", _branches),
    Command("goto", "BRANCH | N | #N", "go to a branch, or branch off after passage N", _goto,
            _branch_names),
    Command("chapter", "[TITLE]", "begin a chapter, or list them", _chapter),
    Command("title", "[TITLE]", "the story's title", _title),
    Command("compare", "", "base and tuned model go on, with the same seed", _compare),
)  # fmt: skip
