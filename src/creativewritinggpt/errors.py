"""The few exceptions a user can meet.

Everything that goes wrong in a way a person can understand is a ``UserError``: one line that says
what is wrong, at most one line of advice, and the exit code of the command. Anything else is a bug
and keeps its traceback behind ``--debug``.
"""

from __future__ import annotations


class UserError(Exception):
    """Something a user can understand and act on.

    Args:
        message: One line that says what is wrong.
        advice: At most one line that says what to do.
    """

    exit_code = 1

    def __init__(self, message: str, advice: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice


class InputError(UserError):
    """What the user gave can't be used: a setting, a file, a folder (exit code 2)."""

    exit_code = 2


class RunError(UserError):
    """The work itself failed: no network, no space, no memory (exit code 1)."""

    exit_code = 1


class Stopped(UserError):
    """The user stopped the work with Ctrl-C (exit code 130)."""

    exit_code = 130
