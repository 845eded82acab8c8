"""The root of the errors that a person may see."""

from __future__ import annotations


class MicroclawError(Exception):
    """Something went wrong.

    The text of every subclass is one line that says what, why and what to do next; where none is given the
    class's docstring serves. `exit_code` is what the command line returns for it (docs: README, "Exit codes").
    """

    exit_code = 1

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip().splitlines()[0])


class UsageError(MicroclawError):
    """The command or the configuration cannot be understood."""

    exit_code = 2


class NotRunningError(MicroclawError):
    """MicroClaw is not running: start it with `microclaw up`."""

    exit_code = 3


class DeniedError(MicroclawError):
    """That is not allowed."""

    exit_code = 4


class UnhealthyError(MicroclawError):
    """A part of MicroClaw is not well: `microclaw status` says which."""

    exit_code = 5
