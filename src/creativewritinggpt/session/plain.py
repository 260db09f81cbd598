"""The session as a plain line loop, for pipes and terminals that can do no more."""

from __future__ import annotations

import sys

from .lines import answer
from .session import Session

PROMPT = "> "


def talk(session: Session, first: str | None = None) -> None:
    """Ask for lines until the writer leaves or the input ends.

    Args:
        session: The session.
        first: A line to begin with.
    """
    terminal = sys.stdin.isatty()
    if first is not None:
        answer(session, first)
    while session.signals.code is None and not session.screen.gone:
        if session.leaving and session.may_leave():
            return
        if terminal:
            session.screen.say()
        try:
            # Without a terminal nobody sees the prompt, and stdout may be somebody's text.
            line = input(PROMPT if terminal else "")
        except EOFError:
            session.screen.end_flow()
            session.leaving = True
            continue
        except OSError:
            session.screen.gone = True
            continue
        except KeyboardInterrupt:
            session.screen.say()
            session.screen.note("Ctrl-D or /quit leaves")
            continue
        answer(session, line)
