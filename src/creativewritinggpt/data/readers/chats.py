"""Talks: lists of messages, and templates of chat models in plain text, as what a novelist reads.

A talk is one document. What the author writes before the first reply is its prompt. The replies
are the text, one paragraph apart; what the author says later stands between them, each of its lines
after ``> ``, as in interactive fiction. Where the speakers have names, every message begins with
its speaker's: ``Odile: The bell rang twice.``

Left out and counted: system messages, calls of tools and their results, thoughts before a reply,
parts that are no text, and swipes that were not chosen.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..document import characters
from ..text import clean

USER, REPLY, SYSTEM, TOOL, NAMED = "user", "reply", "system", "tool", "named"
"""What a message is to a talk."""

KNOWN_ROLES = {
    **dict.fromkeys(("user", "human", "prompter", "player", "you", "customer"), USER),
    **dict.fromkeys(
        ("assistant", "gpt", "bot", "model", "ai", "chatgpt", "chatbot", "char", "character",
         "narrator", "storyteller", "bing", "bard", "claude"), REPLY,
    ),
    **dict.fromkeys(("system", "developer"), SYSTEM),
    **dict.fromkeys(
        ("tool", "function", "function_call", "function-call", "function_response", "tool_call",
         "tool_response", "tool_result", "observation", "ipython"), TOOL,
    ),
}  # fmt: skip
"""The roles of messages by the names that programs give them."""

_ROLE_KEYS = ("role", "from", "sender", "speaker", "author", "src", "name")
_TEXT_KEYS = ("content", "value", "text", "mes", "message", "raw_content", "body")
_LONGEST_LITERAL = 1_000_000
_THOUGHTS = re.compile(r"\A\s*<(think|thinking|reasoning)>.*?</\1>\s*", re.DOTALL)


@dataclass(frozen=True)
class Message:
    """One message of a talk.

    Attributes:
        role: ``USER``, ``REPLY``, ``SYSTEM``, ``TOOL`` or ``NAMED``.
        text: What is said.
        name: Who says it, where it is a name and no role.
        aside: What of it is no part of the talk, by reason.
    """

    role: str
    text: str
    name: str = ""
    aside: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Talk:
    """A talk as a document: its prompt, its text, and characters that are in neither, by reason."""

    prompt: str
    text: str
    left_out: Counter[str]


def messages_of(value: Any) -> list[Message] | None:
    """The messages of a list in one of the usual forms; None where it is no list of messages.

    Known are ``role``/``content``, ``from``/``value``, ``sender``/``text``, SillyTavern's
    ``name``/``is_user``/``mes``, authors as objects (Discord, Character.AI), and the tree of
    ChatGPT's export.
    """
    if isinstance(value, str):
        value = decoded(value)
    if isinstance(value, dict):
        nodes = list(value.values())
        if not nodes or not all(isinstance(n, dict) and "message" in n for n in nodes):
            return None
        value = _branch(value)
    if not isinstance(value, (list, tuple)) or not value:
        return None
    if all(isinstance(part, dict) for part in value):
        if not all(is_message(part) for part in value):
            return None
        return [message_of(part) for part in value]
    return None


def decoded(text: str) -> Any:
    """The list or object that a string holds as JSON or as Python wrote it; None without one."""
    stripped = text.strip()
    if stripped[:1] + stripped[-1:] not in ("[]", "{}"):
        return None
    try:
        return json.loads(stripped)
    except (ValueError, RecursionError):
        pass
    if len(stripped) > _LONGEST_LITERAL:
        return None
    # numpy writes no commas between objects
    literal = re.sub(r"\}\s+\{", "}, {", stripped) if stripped[1:2] == "{" else stripped
    try:
        value = ast.literal_eval(literal)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None
    return value if isinstance(value, (list, dict)) else None


def count_messages(messages: Sequence[Message]) -> int:
    """Characters of messages: what is said, the names of who says it, and what stands aside."""
    said = (part for m in messages for part in (m.text, m.name, *m.aside.values()))
    return sum(map(characters, said))


def _branch(mapping: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages of ChatGPT's tree from its root to its newest leaf."""
    leaf = next((key for key, node in reversed(mapping.items()) if not node.get("children")), None)
    found: list[dict[str, Any]] = []
    seen: set[str] = set()
    while leaf in mapping and leaf not in seen:
        seen.add(str(leaf))
        if isinstance(message := mapping[leaf].get("message"), dict):
            found.append(message)
        leaf = mapping[leaf].get("parent")
    return found[::-1]


def is_message(value: dict[str, Any]) -> bool:
    """Whether an object says who says what."""
    if not any(key in value for key in (*_TEXT_KEYS, "candidates", "tool_calls")):
        return False
    if "is_user" in value or "mes" in value:
        return True
    for key in _ROLE_KEYS:
        role = value.get(key)
        if isinstance(role, dict) and key in ("author", "src", "sender", "from"):
            return True
        if isinstance(role, str) and (
            key in ("role", "from", "sender", "speaker") or role.strip().lower() in KNOWN_ROLES
        ):
            return True
    return False


def message_of(value: dict[str, Any], speaker: str | None = None) -> Message:
    """A message from an object.

    Args:
        value: The object.
        speaker: The key of who speaks, where that is known.
    """
    keys = (speaker,) if speaker else _ROLE_KEYS
    said = next((value[key] for key in keys if key in value), None)
    name = said
    if isinstance(said, dict):
        name = said.get("nickname") or said.get("name") or said.get("role")
        if isinstance(said.get("is_human"), bool):
            said = "user" if said["is_human"] else "bot"
        else:
            said = said.get("role") or name
    name = name.strip() if isinstance(name, str) else ""
    role = KNOWN_ROLES.get(said.strip().lower(), NAMED) if isinstance(said, str) else NAMED
    if isinstance(value.get("is_user"), bool):
        role = USER if value["is_user"] else REPLY
    if value.get("is_system") is True:
        role = SYSTEM
    aside: dict[str, str] = {}
    text = _content(value, aside)
    thoughts = _THOUGHTS.match(text)
    if thoughts:
        aside["thoughts before a reply"] = thoughts[0]
        text = text[thoughts.end() :]
    return Message(role, text, "" if name.lower() in KNOWN_ROLES else name, aside)


def _content(value: dict[str, Any], aside: dict[str, str]) -> str:
    """The text of a message; what is no text of it goes to ``aside``."""
    for key in ("reasoning_content", "reasoning", "thinking"):
        if isinstance(value.get(key), str):
            aside["thoughts before a reply"] = value[key]
    for key in ("tool_calls", "function_call"):
        if value.get(key):
            aside["calls of tools"] = _flat(value[key])
    content: Any = next((value[key] for key in _TEXT_KEYS if value.get(key) is not None), None)
    candidates = value.get("candidates")
    if content is None and isinstance(candidates, list) and candidates:
        first = candidates[0]
        content = first.get("raw_content") if isinstance(first, dict) else first
        aside["swipes that were not chosen"] = _flat(candidates[1:])
    swipes = value.get("swipes")
    if isinstance(swipes, list):
        others = [swipe for swipe in swipes if isinstance(swipe, str) and swipe != content]
        aside["swipes that were not chosen"] = "\n".join(others)
    if isinstance(content, dict):
        content = content.get("parts") or content.get("text")
    if isinstance(content, list):
        texts: list[str] = []
        for part in content:
            inner: Any = part.get("text") if isinstance(part, dict) else part
            if isinstance(inner, str) and not (isinstance(part, dict) and _is_tool(part)):
                texts.append(inner)
            else:
                reason = "parts of messages that are no text"
                aside[reason] = f"{aside.get(reason, '')}{_flat(part)}"
        content = "\n\n".join(texts)
    return content if isinstance(content, str) else ""


def _is_tool(part: dict[str, Any]) -> bool:
    return str(part.get("type", "text")).startswith(("tool", "thinking", "reasoning"))


def _flat(value: Any) -> str:
    """All strings in a value, one after another."""
    waiting: list[Any] = [value]
    found: list[str] = []
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            found.append(part)
        elif isinstance(part, dict):
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
    return " ".join(found)


def compose(messages: Sequence[Message]) -> Talk:
    """A talk as a document; without text where nobody replies."""
    left_out: Counter[str] = Counter()
    spoken: list[Message] = []
    for message in messages:
        for reason, text in message.aside.items():
            left_out[reason] += characters(text)
        text = clean(message.text)
        said = characters(text) + characters(message.name)
        if message.role == SYSTEM:
            left_out["system messages"] += said
        elif message.role == TOOL:
            left_out["results of tools"] += said
        elif text:
            spoken.append(Message(message.role, text, message.name))
        else:
            left_out["messages without text"] += said
    named = any(message.name for message in spoken)
    begun = 0
    while begun < len(spoken) and spoken[begun].role == USER:
        begun += 1
    if begun == len(spoken):
        reason = "talks without a reply"
        left_out[reason] += sum(characters(m.text) + characters(m.name) for m in spoken)
        return Talk("", "", +left_out)
    prompts = (_rendered(message, named, first=True) for message in spoken[:begun])
    replies = (_rendered(message, named, first=False) for message in spoken[begun:])
    return Talk("\n\n".join(prompts), "\n\n".join(replies), +left_out)


def _rendered(message: Message, named: bool, first: bool) -> str:
    if named and message.name:
        return f"{message.name}: {message.text}"
    if message.role == USER and not first:
        return "\n".join(f"> {line}".rstrip() for line in message.text.split("\n"))
    return message.text


def _template(opening: str, closing: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    return re.compile(opening), re.compile(closing)


# What opens a message, with its role, and what no text holds besides.
_TEMPLATES = (
    _template(r"<\|im_start\|>\s*(\w+)[^\n]*\n?", r"<\|im_end\|>|<\|endoftext\|>"),
    _template(
        r"<\|start_header_id\|>\s*(\w+)\s*<\|end_header_id\|>\s*",
        r"<\|eot_id\|>|<\|begin_of_text\|>|<\|end_of_text\|>|<\|eom_id\|>",
    ),
    _template(r"<start_of_turn>\s*(\w+)\s*\n?", r"<end_of_turn>|<bos>|<eos>"),
    _template(r"<\|(user|assistant|system|model)\|>\s*", r"<\|end\|>|</?s>|<\|endoftext\|>"),
    _template(r"###\s*(Instruction|Input|Response|Human|Assistant|User|System):\s*", r"</?s>"),
    _template(r"(?:^|(?<=\s)|(?<=</s>))(USER|ASSISTANT|SYSTEM):\s*", r"</?s>|<\|endoftext\|>"),
    _template(r"(?:^|(?<=\n))[ \t]*(Human|Assistant|User|System):\s*", r"</?s>|<\|endoftext\|>"),
)
_INSTRUCTION = re.compile(
    r"(?:<s>)?\s*\[INST\]\s*(?:<<SYS>>(.*?)<</SYS>>)?(.*?)\[/INST\](.*?)(?=(?:<s>)?\s*\[INST\]|\Z)",
    re.DOTALL,
)
_MARKS = ("<|", "[INST]", "<start_of_turn>", "###", "USER:", "Human:", "User:")
_PARTS = {"instruction": USER, "input": USER, "response": REPLY}


def template_messages(text: str) -> list[Message] | None:
    """The messages of a text in a chat model's template; None where it has none.

    Known are ChatML, Llama 2 and 3, Mistral, Gemma, Phi and Zephyr, Vicuna, Alpaca, and
    ``Human:``/``Assistant:`` at the beginning of lines. Both sides have to speak.
    """
    if not any(mark in text for mark in _MARKS):
        return None
    if "[INST]" in text and "[/INST]" in text:
        return list(_instructions(text))
    for opening, closing in _TEMPLATES:
        found = list(opening.finditer(text))
        roles = [_role(match[1]) for match in found]
        if not {USER, REPLY} <= set(roles):
            continue
        ends = [*(match.start() for match in found[1:]), len(text)]
        made = [Message(SYSTEM, closing.sub("", text[: found[0].start()]))]
        for match, role, end in zip(found, roles, ends, strict=True):
            said = closing.sub("", text[match.end() : end]).strip()
            made.append(message_of({"role": role, "content": said}, "role"))
        return [
            Message(role, message.text, "", message.aside)
            for role, message in zip([SYSTEM, *roles], made, strict=True)
        ]
    return None


def _role(word: str) -> str:
    word = word.lower()
    return _PARTS.get(word) or KNOWN_ROLES.get(word, NAMED)


def _instructions(text: str) -> Iterator[Message]:
    yield Message(SYSTEM, text[: text.index("[INST]")].replace("<s>", ""))
    for system, asked, reply in _INSTRUCTION.findall(text):
        if system.strip():
            yield Message(SYSTEM, system)
        yield Message(USER, asked.strip())
        yield Message(REPLY, re.sub(r"</?s>", "", reply).strip())
