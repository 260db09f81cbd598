"""Files of other programs: what comes, what is left out and said, what is refused."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from creativewritinggpt.errors import InputError
from creativewritinggpt.story.context import story_view
from creativewritinggpt.story.draft import Imported
from creativewritinggpt.story.exchange import import_story
from creativewritinggpt.story.file import dump, load
from creativewritinggpt.story.novelai import Unpacker
from creativewritinggpt.story.tree import Lore, Story

PICTURE = "[<|d|data:image/png;base64,iVBORw0KGgo" + "A" * 600 + "=|d|>]"


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., Imported]:
    def take(content: Any, name: str = "tale.json") -> Imported:
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
        return import_story(path)

    return take


def refused(take: Callable[..., Imported], *given: Any) -> str:
    with pytest.raises(InputError) as caught:
        take(*given)
    assert "\n" not in caught.value.message
    return f"{caught.value.message} {caught.value.advice}"


def authors(found: Imported) -> list[tuple[str, str]]:
    return [(passage.by, passage.text) for passage in found.story.path()]


# --- KoboldAI


def lite(**fields: Any) -> dict[str, Any]:
    return {"gamestarted": True, "prompt": "The mill stood still.", "memory": "", "authorsnote": "",
            "actions": [], "worldinfo": [], "savedsettings": {"opmode": 4}, **fields}  # fmt: skip


def test_lite_comes_without_pictures_and_marks_and_says_so(opened: Any) -> None:
    actions = ["\n{{[INPUT]}}\nTell of the miller.\n{{[OUTPUT]}}\n", " He slept.\n",
               f"\n{PICTURE}\n", " Then he woke.", "<think>Now rain.</think>It rained.",
               {"text": " It stopped."}, 7]  # fmt: skip
    found = opened(lite(actions=actions))
    assert authors(found) == [
        ("writer", "The mill stood still."), ("writer", "\n\nTell of the miller."),
        ("model", "\n\nHe slept.\n"), ("model", " Then he woke."), ("model", "It rained."),
        ("model", " It stopped."),
    ]  # fmt: skip
    assert set(found.left_out) == {
        "pictures (1)", "instruct tags (2)", "thoughts of a model (1)", "pieces without text (1)",
        "settings",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("start", "end"),
    [("\\n### Instruction:\\n", "\\n### Response:\\n"), ("<|im_start|>user\\n", "<|im_end|>\\n"),
     ("\nAUTHOR:", "\nMACHINE:"), ("", "")],
)  # fmt: skip
def test_tags_of_the_settings_become_paragraphs_by_author(
    opened: Any, start: str, end: str
) -> None:
    own = {"opmode": 4, "instruct_starttag": start, "instruct_endtag": end}
    first, second = (one.replace("\\n", "\n") or mark for one, mark in (
        (start, "{{[INPUT]}}"), (end, "{{[OUTPUT]}}")))  # fmt: skip
    found = opened(lite(savedsettings=own, actions=[f"{first}Go on.{second}It rained."]))
    assert found.story.text == "The mill stood still.\n\nGo on.\n\nIt rained."
    assert [passage.by for passage in found.story.path()] == ["writer", "writer", "model"]
    assert "instruct tags (2)" in found.left_out


def test_names_stand_for_their_placeholders_in_lite(opened: Any) -> None:
    own = {"opmode": 3, "chatname": "Ida", "chatopponent": "Tom"}
    found = opened(
        lite(savedsettings=own, memory="{{char}} fears {{user}}.", prompt="{{User}}: Hi")
    )
    assert found.story.state.memory == "Tom fears Ida." and found.story.text == "Ida: Hi"


def test_conditions_of_world_info_are_kept(opened: Any) -> None:
    entries = [
        {"key": "mill, /mill(er)?s?/", "keysecondary": "wind, water", "keyanti": "fire",
         "content": "It grinds.", "selective": True, "probability": "35"},
        {"key": "sack", "keysecondary": "wind", "content": "Heavy.", "selective": False},
        {"key": "rat", "content": "Gone.", "widisabled": True},
        {"key": "", "content": "Nowhere.", "constant": False},
        {"key": "cat", "content": ""}, {"key": "dog", "content": {"no": "text"}},
    ]  # fmt: skip
    found = opened(lite(worldinfo=entries))
    assert found.story.state.lore == (
        Lore(("mill", "/mill(er)?s?/"), "It grinds.", False, ("wind", "water"), ("fire",), 35),
        Lore(("sack",), "Heavy."),
        Lore((), "Nowhere."),
    )
    assert any("without a key word" in line for line in found.said)
    assert {"entries of lore that are off (1)", "empty entries of lore (1)",
            "entries of lore without text (1)"} <= set(found.left_out)  # fmt: skip


def test_other_branches_of_lite_come_as_branches(opened: Any) -> None:
    found = opened(lite(actions=[" It ran."], altbranches=[None, ["Another mill.", " It fell."]]))
    heads = dict(found.story.state.heads)
    assert found.story.text == "The mill stood still. It ran."
    assert found.story.text_at(heads["branch 2"]) == "Another mill. It fell."


def united() -> dict[str, Any]:
    def action(text: str, *others: str) -> dict[str, Any]:
        options = [{"text": one, "Pinned": False, "Previous Selection": True, "Edited": False}
                   for one in others]  # fmt: skip
        return {"Selected Text": text, "Options": options, "Time": 1, "Probabilities": []}

    actions = {"0": action(" One.", " Eins."), "1": action(" Two."), "2": action("", " Undone.")}
    return {
        "file_version": 2, "prompt": "Zero.", "story_name": "Counting", "memory": "Numbers.",
        "authornote": "slow", "authornotetemplate": "[<|>]",
        "actions": {"action_count": 1, "actions": actions},
        "worldinfo_v2": {"folders": {}, "entries": {"0": {
            "key": ["one"], "keysecondary": ["two"], "selective": True, "content": "First."}}},
        "substitutions": [{"target": "--", "substitution": "–"}],
    }  # fmt: skip


def test_united_brings_the_chosen_text_and_sets_the_rest_aside(opened: Any) -> None:
    found = opened(united())
    assert found.form == "KoboldAI United story"
    assert found.story.text == "Zero. One. Two."
    assert {passage.text for passage in found.story.ends()} == {" Eins.", " Undone."}
    state = found.story.state
    assert (state.title, state.memory, state.note) == ("Counting", "Numbers.", "[slow]")
    assert state.lore == (Lore(("one",), "First.", secondary=("two",)),)
    assert found.left_out == ("substitutions (1)",)


def kaistory(content: bytes, name: str = "story.json") -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
        archive.writestr("generated_images/1.png", b"\x89PNG")
    return whole.getvalue()


def test_a_packed_story_is_read_and_a_bomb_is_not(opened: Any) -> None:
    whole = kaistory(json.dumps(united()).encode())
    assert opened(whole, "tale.kaistory").story.text == "Zero. One. Two."
    assert opened(whole, "tale.txt").story.text == "Zero. One. Two."
    assert "64 MB" in refused(opened, kaistory(b" " * 65_000_000), "bomb.kaistory")
    assert "no valid JSON" in refused(opened, kaistory(b"{"), "broken.kaistory")
    assert "story.json" in refused(opened, kaistory(b"{}", "../other.json"), "other.kaistory")
    assert "unpacked" in refused(opened, whole[:60], "cut.kaistory")


MARKS = st.sampled_from(["{{[INPUT]}}", "\n{{[OUTPUT]}}\n", "\n### Instruction:\n", PICTURE])
PROSE = st.text(st.characters(categories=("L", "Nd"), max_codepoint=0x2FFF), max_size=30)


@given(st.lists(st.lists(st.one_of(PROSE, MARKS), max_size=5), max_size=8))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_letter_between_the_marks_comes(opened: Any, actions: list[list[str]]) -> None:
    plain = "".join(one for parts in actions for one in parts if "{{" not in one
                    and "###" not in one and not one.startswith("[<|"))  # fmt: skip
    found = opened(lite(actions=["".join(parts) for parts in actions]))
    came = "".join("".join(passage.text for passage in found.story.path()).split())
    assert came == "".join(("The mill stood still." + plain).split())


# --- mikupad


def test_mikupad_chunks_come_by_author_and_patterns_as_patterns(opened: Any) -> None:
    entries = [{"keys": ["mill", "mill(er)?", "a/b."], "text": "It grinds.", "search": "512"}]
    found = opened({
        "name": "Mill", "prompt": [{"type": "user", "content": "The"}, {"content": " mill"},
                                   {"content": None}, {"type": "user", "content": " fell."}],
        "memoryTokens": {"prefix": "<", "text": "Old.", "suffix": ">"},
        "authorNoteTokens": {"text": ""}, "temperature": 0.7,
        "worldInfo": {"entries": entries, "prefix": "[", "suffix": "]"},
    })  # fmt: skip
    assert authors(found) == [("writer", "The"), ("model", " mill"), ("writer", " fell.")]
    assert found.story.state.lore[0].keys == ("mill", "/mill(er)?/i", "/a\\/b./i")
    assert found.story.state.memory == "<Old.>"
    assert {"settings", "pieces without text (1)"} >= set(found.left_out) - {
        "the reach of entries of lore", "the frame of the lore"}  # fmt: skip


# --- NovelAI


def novelai(story: Any = None, **content: Any) -> dict[str, Any]:
    return {
        "storyContainerVersion": 1, "metadata": {"title": "The Mill"},
        "content": {"storyContentVersion": 5, "settings": {"parameters": {}}, "story": story,
                    "context": [{"text": "Old.\n"}, {"text": "slow"}, {"text": "Third."}],
                    **content},
    }  # fmt: skip


def lorebook() -> dict[str, Any]:
    entry = {"text": "It grinds.", "displayName": "Mill", "keys": ["mill", "/wind(s)?/i", "a & b"],
             "enabled": True, "forceActivation": False}  # fmt: skip
    entries = [entry, {**entry, "enabled": False}, {**entry, "keys": [], "forceActivation": True}]
    return {"lorebookVersion": 5, "entries": entries, "settings": {}}


@pytest.mark.parametrize("name", ["tale.story", "tale.json", "tale.txt", "tale"])
def test_novelai_fragments_come_by_author_whatever_the_ending(opened: Any, name: str) -> None:
    fragments = [{"data": "The mill", "origin": "prompt"}, {"data": " fell.", "origin": "ai"}]
    record = novelai({"version": 2, "step": 1, "fragments": fragments}, lorebook=lorebook(),
                     phraseBiasGroups=[{"phrases": []}, {"phrases": ["x", "y"]}])  # fmt: skip
    found = opened(record, name)
    assert authors(found) == [("writer", "The mill"), ("model", " fell.")]
    state = found.story.state
    assert (state.title, state.memory, state.note) == ("The Mill", "Old.", "slow")
    assert state.lore == (
        Lore(("mill", "/wind(s)?/i", "a & b"), "It grinds."), Lore((), "It grinds.", always=True),
    )  # fmt: skip
    assert set(found.left_out) == {
        "entries of lore that are off (1)", "further contexts (1)", "phrase biases (2)", "settings",
    }  # fmt: skip


def test_novelai_blocks_are_followed_to_the_current_one(opened: Any) -> None:
    def block(data: str, prev: int, start: int, end: int, origin: str = "ai") -> dict[str, Any]:
        return {"prevBlock": prev, "nextBlock": [], "startIndex": start, "endIndex": end,
                "dataFragment": {"data": data, "origin": origin}}  # fmt: skip

    blocks = [
        block("", -1, 0, 0, "root"), block("The mill fell.", 0, 0, 0, "prompt"),
        block(" An undone end.", 1, 14, 14), block(" It rose.", 1, 14, 14),
        block("tower", 3, 4, 8, "edit"),
    ]  # fmt: skip
    record = novelai({"version": 1, "blocks": blocks, "currentBlock": 4})
    found = opened(record)
    assert found.story.text == "The tower fell. It rose."
    assert [passage.by for passage in found.story.path()][-1] == "model"
    loop = novelai({"blocks": [block("x", 1, 0, 0), block("y", 0, 1, 1)], "currentBlock": 1})
    assert opened(loop).story.text == "xy"


def packed(value: Any) -> bytes:
    """MessagePack in which records and structured extensions are as msgpackr writes them."""
    if isinstance(value, tuple):  # an extension
        return b"\xd4" + bytes([value[0], 0]) + packed(value[1])
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        names = b"".join(map(packed, value))
        slot = 0x40 + sum(map(len, value)) % 32
        head = b"\xd4\x72" + bytes([slot, 0x90 | len(value)])
        return head + names + b"".join(map(packed, value.values()))
    if isinstance(value, dict):
        pairs = b"".join(packed(key) + packed(one) for key, one in value.items())
        return bytes([0x80 | len(value)]) + pairs
    if isinstance(value, list):
        return b"\xdc" + struct.pack(">H", len(value)) + b"".join(map(packed, value))
    if isinstance(value, str):
        return b"\xda" + struct.pack(">H", len(value.encode())) + value.encode()
    return b"\xd3" + struct.pack(">q", value)


def editor_document(pending: dict[int, Any] | None = None) -> str:
    sections = {7: {"type": 1, "text": "The mill fell."}, 9: {"type": 1, "text": "It rose. 🌾"},
                11: {"type": 0, "text": "no text"}}  # fmt: skip
    whole = {"sections": sections, "order": [9, 7, 11], "dirtySections": pending or {},
             "history": (30, {"nodes": {1: {"parent": 0}, 2: {"parent": 1}}})}  # fmt: skip
    return base64.b64encode(packed((20, whole))).decode()


def test_the_editors_document_is_read_in_its_order_with_pending_changes(opened: Any) -> None:
    found = opened(novelai(document=editor_document()))
    assert found.story.text == "It rose. 🌾\nThe mill fell."
    assert "steps of its history (1)" in found.left_out
    parts = [{"from": 4, "delete": "mill", "insert": "tower"}]
    changes = {
        7: {"type": 1, "diff": (40, (41, {"parts": parts}))}, 9: {"type": 2},
        13: {"type": 0, "section": {"type": 1, "text": "New."}, "after": 7},
    }  # fmt: skip
    found = opened(novelai(document=editor_document(changes)))
    assert found.story.text == "The tower fell.\nNew."
    wrong = {7: {"type": 1, "diff": (41, {"parts": [{**parts[0], "delete": "no"}]})}}
    found = opened(novelai(document=editor_document(wrong)))
    assert "last changes that can't be read (1)" in found.left_out


def test_bundled_strings_are_cut_in_units_of_utf_16() -> None:
    wide, plain = "🌾é", "millfell"
    strings = packed(wide) + packed(plain)
    body = b"\x93\xc1\x04\xc1\xfd\xc1\x04"  # mill, the wide one, fell
    data = b"\xd6\x62" + struct.pack(">I", 4 + len(body)) + body + strings
    assert Unpacker(data).value() == ["mill", "🌾é", "fell"]


@pytest.mark.parametrize(
    "document",
    [
        "",
        "@@@",
        "AAAA",
        "1BQA",
        base64.b64encode(b"\xd4\x14\x00" + b"\x91" * 200).decode(),
        base64.b64encode(b"\xdd\xff\xff\xff\xff").decode(),
    ],
)
def test_a_document_that_is_none_is_refused_with_a_way_out(opened: Any, document: str) -> None:
    record = novelai(document=document, context=[])
    assert "NovelAI" in refused(opened, record)


@given(st.binary(max_size=60))
@settings(deadline=None)
def test_any_bytes_unpack_or_are_refused(data: bytes) -> None:
    with contextlib.suppress(ValueError, IndexError, TypeError, OverflowError):
        Unpacker(data).value()


def test_a_lorebook_is_lore_alone_and_a_scenario_fills_its_placeholders(opened: Any) -> None:
    found = opened(lorebook(), "world.lorebook")
    assert found.lore_only and len(found.story.state.lore) == 2 and not found.story.passages
    scenario = {
        "scenarioVersion": 3, "title": "The Mill", "lorebook": lorebook(),
        "prompt": "%{town#Lee[Town]:where it is}${town} has a mill of ${wood#oak[Wood]:which}, "
                  "and ${who}.",
        "context": [{"text": "In ${town}."}, {"text": ""}],
        "placeholders": [{"key": "who", "defaultValue": "a miller"}],
    }  # fmt: skip
    found = opened(scenario, "mill.scenario")
    assert found.story.text == "Lee has a mill of oak, and a miller."
    assert "filled in: who = a miller" in found.said
    assert found.story.state.memory == "In Lee."


# --- AI Dungeon


def adventure(**fields: Any) -> dict[str, Any]:
    return {
        "publicId": "1", "title": "The Mill", "prompt": "The mill fell.", "memory": "Old.",
        "authorsNote": "slow", **fields,
    }  # fmt: skip


def test_adventures_come_in_order_without_what_was_undone(opened: Any) -> None:
    actions = [
        {"id": "10", "text": " It burned.", "type": "continue", "undoneAt": None},
        {"id": "1", "text": "The mill fell.", "type": "start"},
        {"id": "2", "text": "\n> You run.\n", "type": "do", "deletedAt": None},
        {"id": "3", "text": " Never.", "type": "continue", "undoneAt": "2025-01-01"},
        {"id": "4", "text": {"wrong": "type"}, "type": "continue"},
    ]  # fmt: skip
    cards = [{"keys": "mill,wind", "value": "It grinds.", "type": "place", "title": "Mill"},
             {"keys": ["rat"], "entry": "Gone."}]  # fmt: skip
    found = opened(adventure(actions=actions, storyCards=cards))
    assert authors(found) == [
        ("writer", "The mill fell."), ("writer", "\n> You run.\n"), ("model", " It burned."),
    ]  # fmt: skip
    assert set(found.left_out) == {"actions taken back (1)", "pieces without text (1)"}
    state = found.story.state
    assert (state.title, state.memory, state.note) == ("The Mill", "Old.", "slow")
    assert [lore.keys for lore in state.lore] == [("mill", "wind"), ("rat",)]


def test_of_several_adventures_one_is_taken_by_number(opened: Any, tmp_path: Path) -> None:
    both = {"adventures": [adventure(actions=[{"text": " It burned."}])],
            "scenarios": [{"title": "Rain", "prompt": "Rain on ${town}."}]}  # fmt: skip
    assert "1 The Mill, 2 Rain" in refused(opened, both)
    assert import_story(f"{tmp_path}/tale.json#1").story.text == "The mill fell. It burned."
    found = import_story(f"{tmp_path}/tale.json#2")
    assert found.story.text == "Rain on ${town}." and found.form == "AI Dungeon scenario"
    assert found.said == ("to be filled in: town",)
    cards = opened([{"keys": "mill", "value": "It grinds.", "type": "place"}])
    assert cards.lore_only and cards.story.state.lore == (Lore(("mill",), "It grinds."),)


# --- SillyTavern


def chat() -> str:
    lines = [
        {"user_name": "Ida", "character_name": "Tom", "create_date": "now",
         "chat_metadata": {"note_prompt": "slow"}},
        {"name": "Tom", "is_user": False, "mes": "Hello, {{user}}.",
         "swipes": ["Hello, {{user}}.", "Oh."], "swipe_id": 0},
        {"name": "Ida", "is_user": True, "mes": "The mill fell."},
        {"name": "System", "is_system": True, "mes": "hidden"},
        {"name": "Tom", "is_user": False, "mes": "It did.", "extra": {"image": "x.png"}},
    ]  # fmt: skip
    return "\n".join(map(json.dumps, lines)) + "\n"


@pytest.mark.parametrize("name", ["chat.jsonl", "chat.txt"])
def test_chats_come_with_their_speakers_and_other_swipes_aside(opened: Any, name: str) -> None:
    found = opened(chat(), name)
    assert authors(found) == [
        ("model", "Tom: Hello, Ida."), ("writer", "\n\nIda: The mill fell."),
        ("model", "\n\nTom: It did."),
    ]  # fmt: skip
    assert [passage.text for passage in found.story.ends()] == ["Tom: Oh."]
    assert set(found.left_out) == {"hidden messages (1)", "pictures (1)"}
    assert found.story.state.note == "slow"


def card() -> dict[str, Any]:
    book = {"entries": [{"keys": ["mill"], "secondary_keys": [], "content": "It grinds.",
                         "enabled": True, "extensions": {"probability": 20}}]}  # fmt: skip
    data = {"name": "Tom", "description": "{{char}} is a miller.", "personality": "slow",
            "scenario": "", "first_mes": "Hello, {{user}}.", "mes_example": "<START>",
            "alternate_greetings": ["Oh."], "character_book": book,
            "extensions": {"depth_prompt": {"prompt": "Rain."}}}  # fmt: skip
    return {"spec": "chara_card_v2", "spec_version": "2.0", "data": data}


def picture(**chunks: Any) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    texts = [chunk(b"tEXt", key.encode() + b"\0" + base64.b64encode(json.dumps(value).encode()))
             for key, value in chunks.items()]  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join([chunk(b"IHDR", bytes(13)), *texts, chunk(b"IEND", b"")])


def test_characters_become_memory_and_beginning(opened: Any) -> None:
    for found in (opened(card()), opened(picture(chara=card()), "tom.png")):
        state = found.story.state
        assert authors(found) == [("writer", "Hello, You.")]
        assert (state.title, state.memory, state.note) == ("Tom", "Tom is a miller.\nslow", "Rain.")
        assert state.lore == (Lore(("mill",), "It grinds.", probability=20),)
        assert [one.text for one in found.story.ends()] == ["Oh."]
        assert found.left_out == ("examples of talk",)
    assert opened(picture(naidata=lorebook()), "lore.png").lore_only
    assert "no character" in refused(opened, picture(), "plain.png")
    assert "no character" in refused(opened, b"\x89PNG\r\n\x1a\n\xff\xff", "broken.png")


def test_the_logic_of_world_info_is_kept(opened: Any) -> None:
    def entry(order: int, **fields: Any) -> dict[str, Any]:
        return {"key": [f"k{order}"], "keysecondary": ["a", "b"], "content": f"Text {order}.",
                "selective": True, "order": order, **fields}  # fmt: skip

    entries = {"4": entry(4, selectiveLogic=3), "1": entry(1, selectiveLogic=0),
               "2": entry(2, selectiveLogic=1), "3": entry(3, selectiveLogic=2, position=4),
               "5": entry(5, selective=False, constant=True, probability=10, sticky=3),
               "6": entry(6, disable=True)}  # fmt: skip
    found = opened({"entries": entries}, "world.json")
    assert found.lore_only
    assert found.story.state.lore == (
        Lore(("k1",), "Text 1.", secondary=("a", "b")),
        Lore(("k2",), "Text 2.", excluding=("a & b",)),
        Lore(("k3",), "Text 3.", excluding=("a", "b")),
        Lore(("k4",), "Text 4.", secondary=("a & b",)),
        Lore(("k5",), "Text 5.", always=True, probability=10),
    )
    assert len(found.left_out) == 3


def test_world_info_of_related_programs_is_read(opened: Any) -> None:
    risu = {"type": "risu", "ver": 1, "data": [
        {"key": "mill, wind", "secondkey": "rain", "content": "It grinds.", "selective": True,
         "alwaysActive": False, "insertorder": 100}]}  # fmt: skip
    assert opened(risu).story.state.lore == (
        Lore(("mill", "wind"), "It grinds.", secondary=("rain",)),
    )
    agnai = {"kind": "memory", "name": "Lee", "entries": [
        {"entry": "It grinds.", "keywords": ["mill"], "enabled": True}]}  # fmt: skip
    assert opened(agnai).story.state.lore == (Lore(("mill",), "It grinds."),)


def test_placeholders_that_are_not_known_are_said(opened: Any) -> None:
    found = opened({"name": "Tom", "first_mes": "{{roll:1d6}} {{char}} {{random::a::b}}"})
    assert found.story.text == "{{roll:1d6}} Tom {{random::a::b}}"
    assert "stays as it is: {{roll:1d6}}, {{random::a::b}}" in found.said


def test_the_folder_of_a_united_story_is_opened(tmp_path: Path) -> None:
    (tmp_path / "Counting").mkdir()
    (tmp_path / "Counting" / "story.json").write_text(json.dumps(united()))
    assert import_story(tmp_path / "Counting").story.text == "Zero. One. Two."


# --- lore in the view


class Reader:
    """What a view needs of a model."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.context_length, self.bos_id, self.name = tokenizer, 512, 0, "tiny"


@pytest.mark.parametrize(
    ("lore", "text", "seen"),
    [
        (Lore(("crate",), "L", secondary=("voice",)), "A crate.", False),
        (Lore(("crate",), "L", secondary=("voice",)), "A voice in a crate.", True),
        (Lore(("crate",), "L", excluding=("empty",)), "An empty crate.", False),
        (Lore(("/ledgers?/",), "L"), "The ledgers.", True),
        (Lore(("/ledgers?/",), "L"), "The LEDGER.", False),
        (Lore(("/ledgers?/i",), "L"), "The LEDGER.", True),
        (Lore(("/(/",), "L"), "The (.", False),
        (Lore(("/(a+)+$/",), "L"), "a" * 60 + "b", False),
        (Lore(("salt & sea",), "L"), "Salt of the sea.", True),
        (Lore(("salt & sea",), "L"), "Salt.", False),
        (Lore(("灯塔",), "L"), "他去了灯塔那里。", True),
        (Lore(("sea",), "L"), "The season.", False),
        (Lore((), "L"), "Anything.", False),
        (Lore(("crate",), "L", always=True, probability=0), "A crate.", False),
    ],
)
def test_conditions_decide_what_is_in_view(
    tiny_tokenizer: Any, lore: Lore, text: str, seen: bool
) -> None:
    story = Story()
    story.write(text)
    story.set("lore", lore=(lore,))
    assert (story_view(Reader(tiny_tokenizer), story).lore == (lore,)) is seen
    assert load(json.loads(dump(story)), "it").state.lore == (lore,)


def test_a_probability_is_drawn_once_for_a_place_and_a_seed(tiny_tokenizer: Any) -> None:
    lore = Lore(("mill",), "It grinds.", probability=40)
    story = Story()
    story.write("The mill.")
    story.set("lore", lore=(lore,))
    reader = Reader(tiny_tokenizer)
    drawn = [bool(story_view(reader, story, seed=seed).lore) for seed in range(200)]
    assert drawn == [bool(story_view(reader, story, seed=seed).lore) for seed in range(200)]
    assert 50 < sum(drawn) < 110


# --- whatever else


def test_json_is_never_prose(opened: Any) -> None:
    for name in ("tale.txt", "tale.md", "tale.story", "tale"):
        assert "known are" in refused(opened, {"some": "thing"}, name)
        assert "no valid JSON" in refused(opened, '{"some": "thi', name)
        refused(opened, "[" * 50_000, name)
    assert opened("[WP] The mill fell.", "prompt.txt").story.text == "[WP] The mill fell."
    assert opened("{Rain} fell.", "prompt.txt").story.text == "{Rain} fell."
    assert "holds no text" in refused(opened, lite(prompt="", actions=[]))


PAGE = "<!DOCTYPE html><html><body><h2>One</h2><p>The mill fell.</p><h2>Two</h2><p>It rose.</p>"


@pytest.mark.parametrize("name", ["page.html", "page.txt", "page.json", "page"])
def test_web_pages_come_as_text_by_chapters(opened: Any, name: str) -> None:
    pytest.importorskip("lxml")
    found = opened(f"{PAGE}</body></html>", name)
    chapters = [(title, text.strip()) for title, text in found.story.chapters()]
    assert chapters == [("One", "The mill fell."), ("Two", "It rose.")]


def test_texts_in_other_encodings_come_and_it_is_said(opened: Any) -> None:
    text = "The miller’s café stood still. It was “closed”. " * 9
    found = opened(text.encode("cp1252"), "a.txt")
    assert found.story.text == text.rstrip() and "was read as" in found.said[0]
    assert opened(text.encode("utf-16"), "a.txt").story.text == text.rstrip()


def test_files_that_hold_no_story_are_refused_with_a_way_out(opened: Any, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.txt", "no story")
    for content, name in (
        ((tmp_path / "x.zip").read_bytes(), "tale.kaistory"), (b"%PDF-1.4 broken", "a.pdf"),
        (b"{\\rtf1 ", "a.rtf"), (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "old.doc"),
        (b"\x1f\x8bbroken", "a.txt.gz"), (b"\xff\xfe\x00", "a.txt"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "tom.webp"), (bytes(range(256)) * 9, "a.txt"),
    ):  # fmt: skip
        refused(opened, content, name)
    with pytest.raises(InputError):
        import_story(tmp_path)


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(),
              st.text("ab {}$[]/,\n", max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(
            ["text", "key", "keys", "content", "entries", "data", "origin", "Selected Text", "type",
             "Options", "mes", "swipes", "actions", "0", "1", "prefix", "entry", "name"]),
            inner, max_size=4)),
    max_leaves=8,
)  # fmt: skip
FIELDS = [
    "prompt", "actions", "memory", "worldinfo", "savedsettings", "altbranches", "actions_metadata",
    "authorsnote", "anotetemplate", "memoryTokens", "worldInfo", "storyContainerVersion", "content",
    "metadata", "lorebookVersion", "entries", "scenarioVersion", "context", "lorebook",
    "placeholders", "publicId", "authorsNote", "storyCards", "name", "first_mes", "description",
    "character_book", "extensions", "alternate_greetings", "data", "adventures", "worldinfo_v2",
]  # fmt: skip


@given(
    st.one_of(
        st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=9),
        VALUES,
        st.lists(
            st.dictionaries(
                st.sampled_from(["mes", "name", "swipes", "is_user", "keys", "entry", "user_name"]),
                VALUES,
            ),
            max_size=3,
        ),
    )
)
@settings(
    deadline=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_json_is_a_story_or_refused_in_one_line(opened: Any, record: Any) -> None:
    try:
        found = opened(record)
    except InputError as error:
        assert "\n" not in error.message
        return
    state = found.story.state
    for text in (found.story.text, state.memory, state.note, *(one.text for one in state.lore)):
        assert "'" not in text and "None" not in text and "True" not in text
    assert all("\n" not in line for line in found.notes())
    again = load(json.loads(dump(found.story)), "it")
    assert again.text == found.story.text and again.state == state
