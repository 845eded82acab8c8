"""One definition of each command, from which the help, the menus and the reading are made."""

from __future__ import annotations

import pytest

from microclaw.core.approvals import read_answer
from microclaw.core.chat_commands import (
    COMMANDS,
    COMMANDS_MAX,
    ChatCommand,
    Typed,
    help_text,
    memory_text,
    menu,
    read_command,
)
from microclaw.core.pairing import read_typed


@pytest.mark.parametrize(("text", "typed"), [
    ("/help", Typed(ChatCommand.HELP)), (" /COMMANDS ", Typed(ChatCommand.HELP)), ("/reset", Typed(ChatCommand.NEW)),
    ("/stop fam", Typed(ChatCommand.STOP, "fam")), ("/queue", Typed(ChatCommand.STATUS)),
    ("/tasks", Typed(ChatCommand.CRON)), ("/compact", Typed(ChatCommand.COMPACT)),
    ("/compact undo", Typed(ChatCommand.COMPACT, undo=True)),
    ("/compact undo fam", Typed(ChatCommand.COMPACT, "fam", undo=True)),
    ("/model a/b-5.1", Typed(ChatCommand.MODEL, "a/b-5.1")),
    ("/new undo fam", None), ("/stop now please", None), ("/nonsense", None), ("stop", None), ("please /stop", None),
    ("/ stop", None), ("", None), ("/approve ABCD-EFGH once", None), ("/pairing", None),
])
def test_what_is_typed_is_read(text: str, typed: Typed | None) -> None:
    assert read_command(text) == typed


def test_every_command_is_defined_once_and_fits_a_menu() -> None:
    assert set(COMMANDS) == set(ChatCommand) and len(COMMANDS) <= COMMANDS_MAX
    words = [word for command, each in COMMANDS.items() for word in (str(command), *each.also)]
    assert len(words) == len(set(words))
    for name, means in menu():
        assert name in help_text() and name.isalpha() and name == name.lower() and len(name) <= 32
        assert means.isprintable() and 3 <= len(means) <= 100


def test_what_is_read_elsewhere_is_read_there() -> None:
    assert read_answer("/approve ABCD-EFGH once") and read_answer("/deny ABCDEFGH") and read_typed("/pairing")


def test_the_memory_is_told() -> None:
    assert memory_text("fam", [("fam/CLAUDE.md", 2048)], 3).splitlines() == [
        "Read at every turn of fam:", "fam/CLAUDE.md: 2.0 KiB", "Earlier conversations in its folder: 3.",
    ]
