"""Exceptions for users: one line that says what is wrong, at most one of advice, an exit code.

Any other exception is a bug; ``--debug`` shows its traceback.
"""

from __future__ import annotations


class UserError(Exception):
    """An error that a user can understand and act on.

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
    """A setting, file or folder that can't be used (exit code 2)."""

    exit_code = 2


class RunError(UserError):
    """A failure of the work: no network, no space, no memory (exit code 1)."""

    exit_code = 1


class Stopped(UserError):
    """The work was stopped with Ctrl-C (exit code 130)."""

    exit_code = 130
