"""The plain interactive prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from creativewritinggpt.generation import engine
from creativewritinggpt.generation.repl import EXAMPLES, run
from creativewritinggpt.generation.settings import GenerationSettings

SETTINGS = GenerationSettings(max_new_tokens=8, seed=1)


@pytest.fixture
def talk(tiny_writer: Any) -> Callable[..., str]:
    """What the session shows when these lines are typed; an exception is raised as a key press."""

    def go(*lines: Any, settings: GenerationSettings = SETTINGS) -> str:
        left = list(lines)
        shown: list[str] = []

        def read_line(prompt: str) -> str:
            shown.append(prompt)
            if not left:
                raise EOFError
            line = left.pop(0)
            if isinstance(line, BaseException):
                raise line
            return str(line)

        run(tiny_writer("gpt2"), settings, read_line, shown.append)
        return "".join(shown)

    return go


def test_examples_are_shown_and_can_be_taken_by_number(talk: Any, tiny_writer: Any) -> None:
    shown = talk("2", "quit")
    assert all(example in shown.split("\n> ")[0] for example in EXAMPLES)
    [text] = engine.write(tiny_writer("gpt2"), EXAMPLES[1], SETTINGS)
    from creativewritinggpt.console import printable

    assert EXAMPLES[1] + printable(text.text) in shown and "[seed 1]" in shown


def test_settings_can_be_seen_and_changed(talk: Any) -> None:
    shown = talk("/set max-new-tokens=3", "/set max_new_tokens", "/set", "/set top_q=1", "quit")
    assert shown.count("max_new_tokens = 3") == 3
    assert "temperature = 0.9" in shown
    assert "error: /set: unknown setting 'top_q'" in shown


def test_a_wrong_value_is_said_and_the_session_goes_on(talk: Any) -> None:
    shown = talk("/set temperature=hot", "/set temperature=-1", "/what", "help", "quit")
    assert "temperature must be a number" in shown and "at least 0" in shown
    assert "no command '/what'" in shown and "Ctrl-C" in shown


def test_an_empty_line_goes_on_with_the_text(talk: Any) -> None:
    shown = talk("The lamp", "", "quit")
    first, second = (part for part in shown.split("\n> ") if "The lamp" in part)
    assert second.startswith(first.split("\n[seed")[0].rstrip("\ufffd")[:12])


def test_ctrl_c_stops_the_writing_and_keeps_the_session(talk: Any, monkeypatch: Any) -> None:
    stream = engine.stream

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        pieces = stream(*args, **kwargs)
        yield next(pieces)
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "stream", interrupted)
    shown = talk("The lamp", "help", KeyboardInterrupt(), "quit")
    assert "The lamp" in shown and "Ctrl-C stops" in shown and "Ctrl-D leaves" in shown


def test_control_characters_never_reach_the_terminal(talk: Any) -> None:
    hot = GenerationSettings(
        max_new_tokens=300, seed=1, temperature=5.0, top_p=1.0, repetition_penalty=1.0,
        min_new_tokens=300,
    )  # fmt: skip
    shown = talk("\x1b[2Jdanger", settings=hot)
    assert "danger" in shown
    assert not any(ord(c) < 32 and c not in "\t\n" or 127 <= ord(c) < 160 for c in shown)
