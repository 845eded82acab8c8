"""From what a platform told to the journal.

The order is the promise: first the journal has the message, then the cursor is on disk, then the platform is told. A
message's id is derived from the platform's own, so what the platform tells twice is one message.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from microclaw.bus.api import Bus, Draft
from microclaw.bus.errors import Refused
from microclaw.channel.notes import Notes
from microclaw.core.ids import derived_id
from microclaw.core.kinds import MessageReceived

log = logging.getLogger("microclaw.channels")

#: Longer texts are cut, and say so: the broker would never take them, and nothing behind them would come through.
TEXT_CHARS_MAX = 100_000

#: The kind of note that says how far the platform was read.
CURSOR = "cursor"


@dataclass(frozen=True, slots=True)
class Heard:
    """A message, and what tells its editions apart."""

    message: MessageReceived
    #: Of an edit: the platform's stamp of it, or its place in the order of edits. 0 = as first written.
    edition: int = 0

    @property
    def message_id(self) -> bytes:
        """The same whenever the platform tells of it."""
        said = self.message
        edit = ("edit", self.edition) if self.edition else ()
        return derived_id(said.sent_ms, said.chat, said.platform_id, *edit)


class Inbound:
    """The way in."""

    def __init__(self, bus: Bus, notes: Notes) -> None:
        self._bus = bus
        self._notes = notes

    def cursor(self, name: str, default: str = "") -> str:
        """How far was read."""
        return self._notes.get(CURSOR, name, default)

    async def take(
        self, heard: Sequence[Heard], cursor: Mapping[str, str] | None = None,
        notes: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """Put these into the journal, in this order; then remember the cursor, and with it these notes (kind → facts).
        After that the platform may be told.

        While the broker is away this waits.

        :raises Refused: the broker will take one of them never (too big): the cursor stays.
        """
        drafts = [
            Draft(
                each.message.chat, _bounded(each.message), message_id=each.message_id, ts_ms=each.message.sent_ms,
                blobs=tuple(file.handle for file in each.message.attachments),
            )
            for each in heard
        ]
        if drafts:
            try:
                await self._bus.publish(*drafts)
            except Refused as refused:
                if refused.code != "id_conflict":
                    raise
                await self._one_by_one(drafts)
        self._notes.write({CURSOR: cursor or {}} | dict(notes or {}))

    async def _one_by_one(self, drafts: Sequence[Draft]) -> None:
        for draft in drafts:
            try:
                await self._bus.publish(draft)
            except Refused as refused:
                if refused.code != "id_conflict":
                    raise
                # The platform tells it in other words now (a name changed, a file's address expired): it was heard.
                log.info("heard before, in other words", extra={"message_id": (draft.message_id or b"").hex()})


def _bounded(message: MessageReceived) -> MessageReceived:
    beyond = len(message.text) - TEXT_CHARS_MAX
    if beyond <= 0:
        return message
    return replace(message, text=f"{message.text[:TEXT_CHARS_MAX]}\n[cut: {beyond} more characters]")
