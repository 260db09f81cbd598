"""Commands that only look: probabilities, heat, reasons, what the model sees, figures."""

from __future__ import annotations

import math

from ..errors import InputError
from ..story.tree import Passage
from .command import Command, number
from .screen import percent
from .session import Session
from .writing import record_of, shown_tokens

_SHOWN = 20
# Alternatives in a row of /probs, by the columns that there are.
_FEW, _OTHERS, _WIDE = 3, 5, 110


def _probs(session: Session, rest: str) -> None:
    tokens = record_of(session, _passage(session))
    wanted = rest.strip()
    places = list(range(len(tokens)))
    if wanted.isdigit():
        middle = number(wanted, "/probs", high=len(tokens)) - 1
        places = [place for place in places if abs(place - middle) <= _SHOWN // 2]
    elif wanted and wanted != "all":
        places = [p for p in places if wanted.lower() in tokens[p].text.lower()]
        if not places:
            raise InputError(f"no token of the last passage holds '{wanted}'")
    elif not wanted:
        places = places[-_SHOWN:]
    count = _OTHERS if session.screen.width >= _WIDE else _FEW
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
    session.screen.table(["token#", "text", "model#", "drawn#", "rank#", "instead"], rows)
    session.screen.note(
        f"{len(tokens)} tokens; /pick TOKEN.NUMBER takes one instead and goes on from there; "
        "/probs N, WORD or all shows others"
    )


def _heat(session: Session, rest: str) -> None:
    passages = session.story.path() if rest.strip() == "all" else [_passage(session)]
    for passage in passages:
        pieces = [
            (text, math.exp(token.logprob))
            for text, token in shown_tokens(record_of(session, passage))
        ]
        session.screen.heat(pieces)


def _why(session: Session, rest: str) -> None:
    if session.explain is None:
        raise InputError("this session can't explain words", "cwgpt analyze explains a text")
    text = session.seen().view
    words = text.split()
    if not words:
        raise InputError("the story is empty", "type a beginning, or an empty line")
    word = rest.strip() or words[-1]
    if word not in text:
        raise InputError(f"'{word}' is not in the text that the model sees", "/context shows it")
    session.screen.note("reading")
    session.screen.say(session.explain(session.writer, text, word))


def _context(session: Session, rest: str) -> None:
    seen, story = session.seen(), session.story
    text = story.text
    rows = [("memory", f"{seen.tokens['memory']:,}", "")]
    rows.append(("lore", f"{seen.tokens['lore']:,}", ", ".join(one.name for one in seen.lore)))
    rows.append(("note", f"{seen.tokens['note']:,}", ""))
    rows.append(("text", f"{seen.tokens['text']:,}", f"{len(seen.prompt.split()):,} words"))
    free = seen.context_length - seen.used
    rows.append(
        ("free", f"{free:,}", f"{seen.fill:.0%} of {seen.context_length:,} tokens are taken")
    )
    session.screen.table(["in view", "tokens#", ""], rows)
    if seen.left_out:
        names = ", ".join(one.name for one in seen.left_out)
        session.screen.say(f"lore without room: {names}")
    if seen.start:
        from ..generation.text import encode

        gone = len(encode(session.writer.tokenizer, text[: seen.start]))
        session.screen.say(f"fallen out of view: the first {gone:,} tokens, up to")
        session.screen.say("  … " + " ".join(text[: seen.start].split())[-70:])
        session.screen.say("the view begins with")
        session.screen.say("  " + " ".join(seen.prompt.split())[:70] + " …")
    if rest.strip() == "all":
        session.screen.say()
        session.screen.flow(seen.view)
        session.screen.end_flow()
    elif text:
        session.screen.note("/context all shows the view itself")


def _stats(session: Session, _: str) -> None:
    story = session.story
    path = story.path()
    words = {by: 0 for by in ("writer", "model")}
    for passage in path:
        words["model" if passage.by == "model" else "writer"] += len(passage.text.split())
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
    session.screen.table(["", "#"], rows)


def _passage(session: Session) -> Passage:
    last = session.story.last
    if last is None:
        raise InputError("the story is empty", "type a beginning, or an empty line")
    return last


def _visible(text: str) -> str:
    """A token with its blanks shown: a leading space belongs to most words."""
    return text.replace("\n", "↵").replace("\t", "→").replace(" ", "·") or "∅"


COMMANDS = (
    Command("probs", "[N | WORD | all]", "how likely each token was, and what else", _probs),
    Command("heat", "[all]", "the last passage, unlikely words marked", _heat),
    Command("why", "[WORD]", "what in the text made the model write a word", _why),
    Command("context", "[all]", "what the model sees, and what has fallen out", _context),
    Command("stats", "", "figures of the story", _stats),
)
