"""Stories, chats, characters and world info of other programs, told apart by their content.

Read are KoboldAI, KoboldAI United and KoboldAI Lite, mikupad, AI Dungeon, SillyTavern and TavernAI;
:mod:`.novelai` has NovelAI. Text, memory, author's note and world info are taken over; what a
:class:`~.tree.Story` has no place for is counted by name, so that an import can show it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..errors import InputError
from .draft import Draft, Form, clean, has_all, has_any, number, records, turn_tags

# --- KoboldAI, United, Lite


def _is_kobold(record: Any) -> bool:
    return (
        has_all(record, "prompt", "actions")
        and isinstance(record["prompt"], (str, type(None)))
        and isinstance(record["actions"], (list, dict))
    )


def _kobold(record: dict[str, Any], draft: Draft) -> None:
    settings = record.get("savedsettings")
    if isinstance(settings, dict) or has_any(record, "anotestr", "wiinsertlocation", "altbranches"):
        draft.form = "KoboldAI Lite save"
        settings = settings if isinstance(settings, dict) else {}
        names = {"user": settings.get("chatname"), "char": settings.get("chatopponent")}
        draft.names = {who: name for who, name in names.items() if name and isinstance(name, str)}
        draft.tags = turn_tags(settings)
    elif has_any(record, "file_version", "worldinfo_v2"):
        draft.form = "KoboldAI United story"
    actions = record["actions"]
    draft.turns(record.get("prompt"), "writer")
    if isinstance(actions, dict):
        _kobold_actions(actions, draft)
    else:
        details = record.get("actions_metadata")
        for place, action in enumerate(actions, 1):
            own = details.get(str(place)) if isinstance(details, dict) else None
            draft.turns(_chosen(action), "model", _versions(own, draft))
    branches = record.get("altbranches")
    for branch in branches if isinstance(branches, list) else ():
        if isinstance(branch, list):
            draft.branch(branch)
    draft.title = draft.text(record.get("story_name"), "titles")
    draft.memory = draft.prose(record.get("memory"), "memories")
    note = record.get("authorsnote", record.get("authornote"))
    frame = record.get("anotetemplate", record.get("authornotetemplate"))
    frame = frame if isinstance(frame, str) and "<|>" in frame else "<|>"
    if text := draft.prose(note, "notes"):
        draft.note = draft.text(frame).replace("<|>", text)
    second = record.get("worldinfo_v2")
    entries = record.get("worldinfo") or (second.get("entries") if isinstance(second, dict) else ())
    for one in records(entries):
        selective = one.get("selective", True)
        draft.entry(
            one.get("key"),
            one.get("content"),
            always=one.get("constant") is True,
            secondary=one.get("keysecondary") if selective else (),
            excluding=one.get("keyanti") if selective else (),
            probability=one.get("probability"),
            enabled=not one.get("widisabled"),
        )
    draft.without_place("settings", settings)
    draft.without_place("substitutions", record.get("substitutions"))
    draft.without_place("biases", record.get("biases"))
    draft.without_place("personal notes", record.get("personal_notes"))
    draft.without_place("the document database", record.get("documentdb_data"))


def _kobold_actions(record: dict[str, Any], draft: Draft) -> None:
    """The second form: numbered actions, up to the last that was not undone."""
    inner = record.get("actions", record)
    numbered = inner.items() if isinstance(inner, dict) else ()
    actions = {int(key): one for key, one in numbered if key.isdecimal() and len(key) < 9}
    last = number(record.get("action_count"), max(actions, default=0))
    for place in sorted(actions):
        chosen = _chosen(actions[place])
        if place <= last:
            draft.turns(chosen, "model", _versions(actions[place], draft))
        else:  # taken back, or offered and not chosen
            draft.lost["actions taken back"] += bool(isinstance(chosen, str) and chosen.strip())
            draft.add("", "model", _versions(actions[place], draft))


_TEXTS = ("Selected Text", "text", "Text", "content", "prompt")


def _chosen(action: Any) -> Any:
    """The text of an action, which may be an object."""
    if not isinstance(action, dict):
        return action
    return next((action[name] for name in _TEXTS if isinstance(action.get(name), str)), action)


def _versions(action: Any, draft: Draft) -> list[str]:
    if not isinstance(action, dict):
        return []
    options = records(action.get("Options")) or records(action.get("Alternative Text"))
    texts = (one.get("text", one.get("Text")) for one in options)
    return [draft.prose(text) for text in texts if isinstance(text, str)]


# --- mikupad


def _is_mikupad(record: Any) -> bool:
    if not has_all(record, "prompt") or "actions" in record:
        return False
    own = has_any(record, "memoryTokens", "authorNoteTokens", "endpointAPI", "mikupadVersion")
    prompt = _unwrapped(record["prompt"])
    return own or (isinstance(prompt, list) and any(has_all(one, "content") for one in prompt))


def _mikupad(record: dict[str, Any], draft: Draft) -> None:
    """A session: chunks of text; in an export every value is JSON in a string."""
    values = {key: _unwrapped(value) for key, value in record.items()}
    prompt = values["prompt"]
    for by, chunks in _runs(prompt if isinstance(prompt, list) else [prompt]):
        draft.turns("".join(draft.text(one) for one in chunks), by)
    draft.title = draft.text(values.get("name"), "titles")
    draft.memory, draft.note = (
        _framed(values.get(key), draft) for key in ("memoryTokens", "authorNoteTokens")
    )
    info = values.get("worldInfo")
    info = info if isinstance(info, dict) else {}
    for one in records(info.get("entries")):
        keys = one.get("keys")
        words = [pattern_key(key) for key in keys] if isinstance(keys, list) else keys
        draft.entry(words, one.get("text"))
        draft.without_place("the reach of entries of lore", one.get("search"))
    draft.without_place("the frame of the lore", info.get("prefix") or info.get("suffix"))
    draft.without_place("settings", "temperature" in values)


def pattern_key(key: Any) -> Any:
    """A key that is a regular expression, between slashes if it is more than words."""
    plain = not isinstance(key, str) or re.fullmatch(r"[\w\s'’,-]*", key)
    return key if plain else "/" + re.sub(r"(?<!\\)/", r"\\/", key) + "/i"


def _runs(chunks: Iterable[Any]) -> Iterator[tuple[str, list[Any]]]:
    """Chunks by author; those of the model are single tokens."""
    author = ""
    texts: list[Any] = []
    for chunk in chunks:
        text = chunk.get("content") if isinstance(chunk, dict) else chunk
        own = isinstance(chunk, str) or (isinstance(chunk, dict) and chunk.get("type") == "user")
        by = "writer" if own else "model"
        if by != author and texts:
            yield author, texts
            texts = []
        author = by
        texts.append(text)
    yield author or "writer", texts


def _unwrapped(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _framed(part: Any, draft: Draft) -> str:
    if not isinstance(part, dict) or not part.get("text"):
        return ""
    return "".join(draft.text(part.get(name)) for name in ("prefix", "text", "suffix"))


# --- AI Dungeon


_UNDONE = ("undoneAt", "deletedAt", "undone", "deleted", "isDeleted")


def _is_dungeon(record: Any) -> bool:
    actions = record.get("actions") if isinstance(record, dict) else None
    if isinstance(record.get("prompt", "") if isinstance(record, dict) else None, str):
        if isinstance(actions, list) and any(has_all(one, "text", "type") for one in actions):
            return True
        own = ("publicId", "shortId", "authorsNote", "storyCards", "worldInfo")
        return has_any(record, *own) and has_any(record, "prompt", "actions", "actionWindow")
    return False


def _dungeon(record: dict[str, Any], draft: Draft) -> None:
    """An adventure: actions in the order in which they were written, or a scenario."""
    actions = record.get("actions", record.get("actionWindow"))
    actions = actions if isinstance(actions, list) else []
    draft.form = "AI Dungeon adventure" if actions else "AI Dungeon scenario"
    prompt = placeholders(draft.prose(record.get("prompt"), "prompts"), draft)
    undone = [isinstance(one, dict) and any(map(one.get, _UNDONE)) for one in actions]
    draft.lost["actions taken back"] += sum(undone)
    kept = _ordered([one for one, gone in zip(actions, undone, strict=True) if not gone])
    first = _chosen(kept[0]) if kept else ""
    if not isinstance(first, str) or first.strip() != prompt.strip() or not first:
        draft.add(prompt, "writer")  # else the first action repeats it
    for one in kept:
        kind = one.get("type") if isinstance(one, dict) else None
        draft.add(draft.prose(_chosen(one)), "model" if kind in (None, "continue") else "writer")
        draft.lost["pictures"] += bool(isinstance(one, dict) and one.get("imageUrl"))
    draft.title = draft.text(record.get("title"), "titles")
    state = record.get("state")
    both = {**(state if isinstance(state, dict) else {}), **record}
    draft.memory = placeholders(draft.text(both.get("memory"), "memories"), draft)
    draft.note = placeholders(draft.text(both.get("authorsNote"), "notes"), draft)
    for name in ("worldInfo", "storyCards"):
        dungeon_cards(record.get(name), draft)
    draft.without_place("further scenarios", record.get("options"))
    draft.without_place("scripts", record.get("gameCode"))


def _ordered(actions: list[Any]) -> list[Any]:
    """Actions by the time of their making or their number, where all have one of their own."""
    for name in ("createdAt", "id"):
        marks = [one.get(name) if isinstance(one, dict) else None for one in actions]
        texts = [one for one in marks if isinstance(one, str) and len(one) < 40]
        if len(set(texts)) < len(actions) or (name == "id" and not all(map(str.isdecimal, texts))):
            continue
        places = sorted(range(len(texts)), key=lambda place: (len(texts[place]), texts[place]))
        return [actions[place] for place in places]
    return actions


def dungeon_cards(cards: Any, draft: Draft) -> None:
    """World info or story cards of AI Dungeon."""
    for one in records(cards):
        text = next((one[name] for name in ("entry", "value", "description") if one.get(name)), "")
        keys = one.get("keys") or one.get("triggers") or one.get("title") or one.get("name")
        draft.entry(keys, text, enabled=not (one.get("isDeleted") or one.get("deletedAt")))


def _is_cards(record: Any) -> bool:
    found = isinstance(record, list) and all(
        has_all(one, "keys") and has_any(one, "entry", "value") for one in record
    )
    return found and bool(record)


def _cards(record: Any, draft: Draft) -> None:
    draft.lore_only = True
    dungeon_cards(record, draft)


_PLACEHOLDER = re.compile(
    r"\$\{([^{}#\[\]:\n]+)(?:#([^{}\[\]:\n]*))?(?:\[[^{}\]\n]*\])?(?::[^{}]*)?\}"
)
_DEFINITIONS = re.compile(r"%\{[^{}]*\}\s*")
_DEFINITION = re.compile(r"^[ \t]*([^{}#\[\]:\n]+)#([^{}\[\]:\n]*)", re.MULTILINE)


def placeholders(text: str, draft: Draft) -> str:
    """``text`` with placeholders ``${name#default[…]:…}`` filled in; what has no default stays."""
    known = draft.defaults
    for block in _DEFINITIONS.finditer(text):
        known.update({name.strip(): value for name, value in _DEFINITION.findall(block[0][2:])})
    text = _DEFINITIONS.sub("", text)
    for name, default in _PLACEHOLDER.findall(text):
        if default:
            known.setdefault(name.strip(), default)

    def fill(match: re.Match[str]) -> str:
        name = match[1].strip()
        value = known.get(name)
        told = f"filled in: {name} = {value}" if value else f"to be filled in: {name}"
        if told not in draft.said:
            draft.said.append(told)
        return value or match[0]

    return _PLACEHOLDER.sub(fill, text)


# --- SillyTavern and TavernAI


def _is_chat(record: Any) -> bool:
    return isinstance(record, list) and any(has_all(one, "mes") for one in record)


def _chat(record: list[Any], draft: Draft) -> None:
    """A chat: the first line has the names, each further line a message with its versions."""
    lines = records(record)
    about = lines.pop(0) if "mes" not in lines[0] else {}
    for who, field in (("user", "user_name"), ("char", "character_name")):
        name = about.get(field)
        if isinstance(name, str) and name not in ("", "unused"):
            draft.names[who] = clean(name)
    draft.title = draft.names.get("char", "")
    for one in lines:
        if one.get("is_system") is True:
            draft.lost["hidden messages"] += 1
            continue
        extra = one.get("extra")
        draft.lost["pictures"] += bool(isinstance(extra, dict) and extra.get("image"))
        speaker = draft.text(one.get("name"), "names").strip()
        who = f"{speaker}: " if speaker else ""
        text = draft.prose(one.get("mes"), "messages").strip()
        if text:
            draft.paragraph()
            others = [who + other for other in _texts(one.get("swipes"), draft)]
            draft.add(who + text, "writer" if one.get("is_user") is True else "model", others)
    metadata = about.get("chat_metadata")
    if isinstance(metadata, dict):
        draft.note = draft.prose(metadata.get("note_prompt"), "notes")
    draft.said.append("each message begins with the name of its speaker")


def _texts(values: Any, draft: Draft) -> list[str]:
    values = values if isinstance(values, list) else ()
    return [draft.prose(one).strip() for one in values if isinstance(one, str)]


def _card(record: dict[str, Any], draft: Draft) -> None:
    """A character card: the character as memory, its greeting as the beginning."""
    data = record.get("data")
    inner: dict[str, Any] = {**record, **data} if isinstance(data, dict) else record
    draft.title = draft.text(inner.get("name") or inner.get("char_name"), "names").strip()
    draft.names = {"user": "You", "char": draft.title}
    fields = (("description", "char_persona"), ("personality",), ("scenario", "world_scenario"))
    found = (next((inner[one] for one in names if inner.get(one)), None) for names in fields)
    draft.memory = "\n".join(text for one in found if (text := draft.prose(one, "fields").strip()))
    first = inner.get("first_mes") or inner.get("char_greeting")
    others = _texts(inner.get("alternate_greetings"), draft)
    draft.add(draft.prose(first, "greetings").strip(), "writer", others)
    extensions = inner.get("extensions")
    depth = extensions.get("depth_prompt") if isinstance(extensions, dict) else None
    if isinstance(depth, dict):
        draft.note = draft.prose(depth.get("prompt"), "notes")
    book = inner.get("character_book")
    world_info(book.get("entries") if isinstance(book, dict) else (), draft)
    draft.without_place("examples of talk", inner.get("mes_example"))
    for prompt in ("system_prompt", "post_history_instructions"):
        draft.without_place("system messages", inner.get(prompt))
    draft.said.append("the character is the memory, its greeting the beginning; {{user}} is 'You'")


def _is_card(record: Any) -> bool:
    inner = record.get("data") if has_all(record, "data") else record
    named = has_any(inner, "name", "char_name")
    return named and has_any(inner, "first_mes", "char_greeting", "char_persona", "mes_example")


def _world_entries(record: Any) -> Any:
    """The entries of a world info file; RisuAI calls them ``data``."""
    if not isinstance(record, dict):
        return None
    return record.get("data" if record.get("type") == "risu" else "entries")


def _is_world(record: Any) -> bool:
    entries = _world_entries(record)
    return isinstance(entries, (dict, list)) and any(
        has_any(one, "content", "entry") and has_any(one, "key", "keys", "keywords")
        for one in records(entries)
    )


def _world(record: dict[str, Any], draft: Draft) -> None:
    draft.lore_only = True
    draft.title = draft.text(record.get("name"), "names")
    world_info(_world_entries(record), draft)


_OF_ITS_OWN = ("sticky", "cooldown", "delay", "group", "vectorized", "scanDepth", "scan_depth")


def world_info(entries: Any, draft: Draft) -> None:
    """World info of SillyTavern, or the lore of a character card."""
    found = records(entries)
    found.sort(key=lambda one: number(one.get("order", one.get("insertion_order")), 100))
    for one in found:
        extensions = one.get("extensions")
        more: dict[str, Any] = {**(extensions if isinstance(extensions, dict) else {}), **one}
        second = one.get("keysecondary", one.get("secondary_keys", one.get("secondkey")))
        second = draft.keys(second)
        logic = number(more.get("selectiveLogic"), 0)
        joined = [" & ".join(second)] if second else []
        # AND ANY, NOT ALL, NOT ANY, AND ALL
        groups = {1: ((), joined), 2: ((), second), 3: (joined, ())}.get(int(logic), (second, ()))
        secondary, excluding = groups if one.get("selective", True) is not False else ((), ())
        draft.entry(
            one.get("key", one.get("keys", one.get("keywords"))),
            one.get("content", one.get("entry")),
            always=one.get("constant", one.get("alwaysActive")) is True,
            secondary=secondary,
            excluding=excluding,
            probability=more.get("probability") if more.get("useProbability", True) else None,
            enabled=not one.get("disable") and one.get("enabled", True) is not False,
        )
        draft.lost["timers, groups or reaches of lore"] += any(
            more.get(name) for name in _OF_ITS_OWN
        )
        draft.lost["places of lore in the depth of the text"] += more.get("position") == 4


def collection(record: Any) -> Sequence[tuple[str, Any]]:
    """Titles and records of a file that holds several stories, as aidcat's; else none.

    Raises:
        InputError: It holds none.
    """
    if not has_any(record, "adventures", "scenarios") or has_any(record, "actions", "prompt"):
        return ()
    found = [*records(record.get("adventures")), *records(record.get("scenarios"))]
    if not found:
        raise InputError("the export holds no adventure and no scenario")
    titles = (one.get("title") for one in found)
    named = (title if isinstance(title, str) and title else "Untitled" for title in titles)
    return list(zip(named, found, strict=True))


ADVENTURE = Form("AI Dungeon adventure", _is_dungeon, _dungeon)
"""The form of the stories in a :func:`collection`."""
FORMS = (
    Form("SillyTavern character card", _is_card, _card),
    Form("world info (SillyTavern, RisuAI, Agnai)", _is_world, _world),
    Form("SillyTavern chat", _is_chat, _chat),
    Form("mikupad session", _is_mikupad, _mikupad),
    ADVENTURE,
    Form("KoboldAI story", _is_kobold, _kobold),
    Form("AI Dungeon story cards", _is_cards, _cards),
)
"""The forms of other programs, the most particular first."""
