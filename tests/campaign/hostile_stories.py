"""Hostile story files, files of other programs, and files of choices."""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from corpora import TEXT
from hypothesis import strategies as st

from .mutations import JUNK, JUNK_DEEP, grown, json_files, mutated, mutated_json, to_json, zipped
from .others import programs
from .sandbox import Target


@functools.cache
def stories() -> list[Any]:
    """Records of valid stories: both versions, branches, choices, lore."""
    from creativewritinggpt.story import choices
    from creativewritinggpt.story.file import dump, load
    from creativewritinggpt.story.tree import Lore, Setup, Story

    small = Story()
    small.write("The lamp went out.", by="writer")
    large = Story()
    setup = Setup("tiny", {"mine": 0.5}, "fantasy", {"temperature": 1.0}, "Old.", "slow")
    first = large.write(TEXT, by="writer")
    large.write(" It rained.", by="model", seed=3, setup=setup)
    large.set("lore", lore=(Lore(("mill", "/wi+nd/i"), "It grinds.", probability=20),))
    large.set("memory", memory="Old.")
    large.branch(at=first.id)
    offered = [large.offer(f" Another end, number {n}. {TEXT}", by="model").id for n in range(12)]
    choices.pick(large, offered, offered[3])
    choices.undo(large, 1, "session")
    choices.redo(large, 1, "session")
    found = [json.loads(dump(one)) for one in (small, large)]
    for one in found:
        load(one, "a story")
    return found


def _versions() -> list[Any]:
    base = stories()
    old = [{**one, "version": version} for one in base for version in (0, 1, 2, 3, "1", True)]
    return base * 4 + old


def _act_story(data: bytes, folder: Path) -> None:
    """Open a story, change it, write it, open it again."""
    from creativewritinggpt.story.decisions import decisions
    from creativewritinggpt.story.exchange import export_story
    from creativewritinggpt.story.file import StoryFile, read_story

    path = folder / "story.json"
    path.write_bytes(data)
    file = StoryFile(path)
    story = file.open()
    try:
        decisions(story, "story")
        text = story.text
        story.write("More.", by="writer")
        file.save(story)
        assert read_story(path).text == story.text and story.text.startswith(text)
        story.undo(1)
        assert story.text == text
        for ending in (".md", ".html", ".txt"):
            export_story(story, folder / f"out{ending}")
    finally:
        file.close()


_BASES: list[tuple[str, bytes]] = [
    ("lite.json", to_json(programs.lite(actions=["\n{{[INPUT]}}\nTell.\n{{[OUTPUT]}}\n",
                                                 "It fell."],
                                        worldinfo=[{"key": "mill", "content": "It grinds."}],
                                        altbranches=[None, ["A mill.", " It fell."]]))),
    ("united.json", to_json(programs.united())),
    ("tale.kaistory", programs.kaistory(to_json(programs.united()))),
    ("mikupad.json", to_json({
        "name": "Mill", "prompt": [{"type": "user", "content": "The"}, {"content": " mill"}],
        "memoryTokens": {"prefix": "<", "text": "Old.", "suffix": ">"},
        "worldInfo": {"entries": [{"keys": ["mill", "a/b."], "text": "It grinds.", "search": "5"}]},
    })),
    ("tale.story", to_json(programs.novelai(
        {"version": 2, "step": 1, "fragments": [{"data": "The mill", "origin": "prompt"},
                                                {"data": " fell.", "origin": "ai"}]},
        lorebook=programs.lorebook()))),
    ("blocks.story", to_json(programs.novelai(
        {"version": 1, "currentBlock": 2, "blocks": [
            {"prevBlock": place - 1, "nextBlock": [], "startIndex": 0, "endIndex": 0,
             "dataFragment": {"data": "x", "origin": "ai"}} for place in range(3)]}))),
    ("editor.story", to_json(programs.novelai(document=programs.editor_document()))),
    ("lore.lorebook", to_json(programs.lorebook())),
    ("adventure.json", to_json(programs.adventure(
        actions=[{"id": "1", "text": "The mill fell.", "type": "start"},
                 {"id": "2", "text": "> You run.", "type": "do"}],
        storyCards=[{"keys": "mill", "value": "It grinds.", "title": "Mill"}]))),
    ("chat.jsonl", programs.chat().encode()),
    ("card.json", to_json(programs.card())),
    ("tom.png", programs.picture(chara=programs.card())),
    ("lore.png", programs.picture(naidata=programs.lorebook())),
    ("tale.txt", TEXT.encode()), ("tale.md", f"# One\n\n{TEXT}\n\n## Two\n\n{TEXT}".encode()),
]  # fmt: skip
_RECORDS = [json.loads(data) for name, data in _BASES if name != "chat.jsonl" and data[:1] == b"{"]


@st.composite
def _imports(draw: st.DrawFn) -> tuple[str, bytes]:
    kind = draw(st.integers(0, 5))
    if kind <= 2:
        name = draw(st.sampled_from(("a.json", "a.story", "a.card", "a.lorebook", "a.txt")))
        return name, draw(json_files(_RECORDS))
    if kind == 3:
        name, base = draw(st.sampled_from(_BASES))
        return name, draw(mutated([base]))
    if kind == 4:  # what a packed story and a picture hold
        record = draw(mutated_json(_RECORDS))
        if draw(st.booleans()):
            return "a.png", programs.picture(chara=record, naidata=draw(JUNK))
        member = draw(
            st.sampled_from(("story.json", "../story.json", "x/story.json", "/story.json"))
        )
        return "a.kaistory", zipped({member: to_json(record), "x.png": b""})
    lines = draw(st.lists(st.one_of(JUNK_DEEP, mutated_json([
        json.loads(line) for line in programs.chat().splitlines()])), max_size=6))  # fmt: skip
    return "a.jsonl", b"\n".join(map(to_json, lines))


def _act_import(case: tuple[str, bytes], folder: Path) -> None:
    """Import a file of another program, and keep what came as a story."""
    from creativewritinggpt.story.exchange import import_story
    from creativewritinggpt.story.file import dump, load

    path = folder / case[0]
    path.write_bytes(case[1])
    found = import_story(path)
    again = load(json.loads(dump(found.story)), "again")
    assert again.text == found.story.text
    for said in (*found.said, *found.left_out):
        assert "\n" not in said and len(said) < 2000, said


_MESSAGE_PACK = [
    b"\xd4\x72", b"\xd4\x14\x00", b"\xdc\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff",
    b"\xc7\xff", b"\xc9\xff\xff\xff\xff\x01", b"\xc1", b"\xcb\x7f\xf0" + bytes(6), b"\xc0", b"\x90",
    b"\x91" * 3000, b"\x81\x00" * 900, b"\xa3abc", b"\xdb\xff\xff\xff\xff", b"\x40", b"\x72",
    b"\x80",
    b"\xd4\x69\x00", b"\xd6\x70\x00\x00\x00\x01", b"\xd3" + b"\xff" * 8, b"\xc4\x05",
    b"\xcf" + b"\xff" * 8,
]  # fmt: skip


@st.composite
def _editor(draw: st.DrawFn) -> bytes:
    base = base64.b64decode(programs.editor_document())
    document = draw(st.one_of(mutated([base]), grown(_MESSAGE_PACK)))
    encoded = base64.b64encode(document).decode()
    if draw(st.integers(0, 9)) == 0:
        encoded = draw(mutated([encoded.encode()])).decode("latin-1")
    return to_json(programs.novelai(document=encoded))


_CHOICES: list[Any] = [
    {"prompt": "The mill", "chosen": " fell.", "rejected": [" rose.", " stood."]},
    {"prompt": "The mill", "chosen": " fell.", "rejected": " rose.", "weight": 0.5,
     "kind": "picked"},
    {"prompt": "The mill", "chosen": None, "rejected": " rose."},
    {"prompt": [{"role": "user", "content": "The"}], "chosen": " fell.", "rejected": " rose."},
    {"prompt": "The", "text": " mill", "index": 0, "line": 1, "chosen": True},
]  # fmt: skip


@st.composite
def _choices(draw: st.DrawFn) -> bytes:
    if draw(st.integers(0, 4)) == 0:
        return draw(mutated([b"\n".join(map(to_json, _CHOICES)), to_json(stories()[1])]))
    rows = draw(st.lists(st.one_of(mutated_json(_CHOICES), st.sampled_from(_CHOICES)), max_size=6))
    return b"\n".join(map(to_json, rows))


def _act_choices(data: bytes, folder: Path) -> None:
    """Read choices, write them as pairs, read those."""
    from creativewritinggpt.story.choice_files import read_any, write_pairs

    path = folder / "choices.jsonl"
    path.write_bytes(data)
    found = read_any(path)
    if found.used and write_pairs(found.used, folder / "pairs.jsonl"):
        read_any(folder / "pairs.jsonl")


_PROMPTS: list[Any] = [
    {"prompt": "The mill", "id": 5, "seed": 3, "memory": "Old.", "note": "slow",
     "parts": [["a", 0, 3]]},
    "The mill", {"prompt": "x"},
]  # fmt: skip
_SCORES: list[Any] = [
    {"id": "a", "source": "a", "words": 5, "bytes": 9, "models": {
        "base": {"loss": 1.5, "tokens": 5, "eos_loss": 0.1}}},
]  # fmt: skip


@st.composite
def _lines(draw: st.DrawFn) -> tuple[str, bytes]:
    name, bases = draw(st.sampled_from([("prompts", _PROMPTS), ("scores", _SCORES)]))
    if draw(st.integers(0, 4)) == 0:
        return name, draw(mutated([b"\n".join(map(to_json, bases))]))
    rows = draw(st.lists(mutated_json(bases) | JUNK_DEEP, max_size=5))
    return name, b"\n".join(map(to_json, rows))


def _act_lines(case: tuple[str, bytes], folder: Path) -> None:
    """Read prompts, or the scores of an earlier evaluation."""
    from creativewritinggpt.evaluation.report import read_scores
    from creativewritinggpt.generation.batch import read_prompts

    path = folder / "lines.jsonl"
    path.write_bytes(case[1])
    if case[0] == "scores":
        read_scores(path)
        return
    for prompt in read_prompts(path):
        f"{prompt.text}{prompt.memory}{prompt.note}{prompt.id}".encode()


def _prepare_lines() -> None:
    import creativewritinggpt.evaluation.report
    import creativewritinggpt.generation.batch  # noqa: F401


def _prepare() -> None:
    import creativewritinggpt.data.readers  # noqa: F401
    from creativewritinggpt.story import choice_files, exchange  # noqa: F401

    stories()


def _deferred(make: Callable[[], st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    return st.deferred(make)


TARGETS = (
    Target("story", _deferred(lambda: json_files(_versions())), _act_story, _prepare),
    Target("import", _imports(), _act_import, _prepare),
    Target(
        "novelai-document", _editor().map(lambda data: ("a.story", data)), _act_import, _prepare
    ),
    Target("lines", _lines(), _act_lines, _prepare_lines),
    Target("choices", _choices(), _act_choices, _prepare),
)
