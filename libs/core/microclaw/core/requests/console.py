"""What is asked of the console."""

from __future__ import annotations

import msgspec

from microclaw.core.requests.asking import Request


class Say(Request, frozen=True, kw_only=True, tag="console.say"):
    """To the console connector: a person typed this. Answered (`Said`) once the journal has it."""

    chat: str
    text: str
    #: Chosen by the asker: the same id is one message, however often it is asked.
    platform_id: str
    sender: str = "owner"
    sender_name: str = "Owner"


class Said(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="console.said"):
    seq: int


class ConsoleLine(msgspec.Struct, frozen=True, kw_only=True):
    """One delivered reply. `number` is dense per chat, from 1."""

    number: int
    reply_id: str
    text: str
    origin: str
    sent_ms: int


class Read(Request, frozen=True, kw_only=True, tag="console.read"):
    """To the console connector: the replies of a chat after line `after`; waits up to `wait_ms` for the first."""

    chat: str
    after: int = 0
    wait_ms: int = 0
    #: Only tell the newest line's number (in `Lines.last`), to start reading from now.
    only_last: bool = False


class Lines(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="console.lines"):
    lines: tuple[ConsoleLine, ...]
    last: int
