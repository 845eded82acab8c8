"""What a client wants published, checked: form, size, rights, blobs; and turned into rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

import msgspec

from microclaw.bus.blobs import BlobStore
from microclaw.bus.calls import Client, Refusal
from microclaw.bus.envelope import ENVELOPE_BYTES_MAX, VERSION, Incoming, decode_incoming, incoming
from microclaw.bus.errors import EnvelopeError, EnvelopeTooBig, Refused
from microclaw.bus.journal_schema import NewRow
from microclaw.bus.subjects import subject_matcher

#: Messages in one publish call.
CALL_MESSAGES_MAX = 1_000
#: Kinds of one client remembered as allowed.
KINDS_KEPT_MAX = 1_000

#: A device's sessions are `device:<its id>` and what begins with `device:<its id>:`.
DEVICE = "device"

#: (who, what it tried, why it may not).
Denied = Callable[[str, str, str], None]


def is_count(number: object) -> TypeGuard[int]:
    """A whole number that the journal can hold."""
    # Not a bool, which is an int too.
    return type(number) is int and 0 <= number < 1 << 63


def check_counts(*numbers: object) -> None:
    """Raises TypeError."""
    if not all(map(is_count, numbers)):
        raise TypeError("ids, offsets and places are whole numbers")


def check_texts(*texts: object) -> None:
    """Raises TypeError."""
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("names and reasons are text")


class Intake:
    """Checks everything before it is given a place."""

    def __init__(self, blobs: BlobStore | None, denied: Denied) -> None:
        self._blobs = blobs
        self._denied = denied

    def rows(self, client: Client, items: list[Any]) -> list[NewRow]:
        """The messages of a call.

        :raises Refusal: one of them can't be taken, so none is. Garbage raises ValueError, TypeError or LookupError.
        """
        if len(items) > CALL_MESSAGES_MAX:
            raise Refusal("too_big", f"{len(items)} messages in one call, the limit is {CALL_MESSAGES_MAX}")
        return self._quickly(client, items) or [self.row(client, item) for item in items]

    def each(self, client: Client, items: list[Any]) -> list[NewRow] | None:
        """The messages of as many calls; None = one of them can't be taken, or they are too many: take them one by
        one."""
        return self._quickly(client, items) if len(items) <= CALL_MESSAGES_MAX else None

    @staticmethod
    def _quickly(client: Client, items: list[Any]) -> list[NewRow] | None:
        """As `row` of each, for what nearly all messages are; None = something is not as usual."""
        rows = []
        name, may_publish, sessions, decode = client.name, client.may_publish, client.rights.sessions, decode_incoming
        try:
            for body in items:
                envelope = decode(body)
                session, kind = envelope.session_id, envelope.payload.kind
                # A kind that it may publish was well formed when it was first looked at.
                if (
                    envelope.source != name or kind not in may_publish or not session.startswith(sessions)
                    or envelope.v != VERSION or len(body) > ENVELOPE_BYTES_MAX or envelope.device_id
                ):
                    return None
                rows.append(NewRow(envelope.message_id, body, session, kind))
        except (msgspec.MsgspecError, TypeError, RecursionError):
            return None
        return rows

    def row(self, client: Client, item: Any) -> NewRow:
        """One message; raises as `rows` does."""
        try:
            return self._special(client, *item) if isinstance(item, list) else self._row(client, item)
        except EnvelopeTooBig as error:
            raise Refusal("too_big", str(error)) from error
        except Refused as error:
            raise Refusal(error.code, error.why) from error
        except EnvelopeError as error:
            raise Refusal("version" if error.field == "v" else "malformed", str(error)) from error
        except Refusal as refusal:
            if refusal.code == "denied":
                self._denied(client.name, "publish", refusal.why)
            raise

    def _row(self, client: Client, body: bytes) -> NewRow:
        envelope = incoming(body)
        kind = envelope.payload.kind
        session = envelope.session_id
        if (
            kind not in client.may_publish or envelope.source != client.name
            or not session.startswith(client.rights.sessions) or envelope.device_id
        ):
            self._check_rights(client, envelope)
        return NewRow(envelope.message_id, body, session, kind)

    def _special(
        self, client: Client, body: bytes, not_before: int, expires: int, expected: int | None,
        handles: list[str] | None = None,
    ) -> NewRow:
        """One with more to it than its envelope."""
        if not all(is_count(number) for number in (not_before, expires, 0 if expected is None else expected)):
            raise TypeError("times and places are whole numbers")
        row = self._row(client, body)
        row.not_before_ms = not_before or None
        row.expires_ms = expires or None
        row.expected_seq = expected
        row.blobs = self._kept(handles or [])
        return row

    def _kept(self, handles: list[str]) -> tuple[str, ...]:
        """The blobs that a message names; all must be here."""
        for handle in handles:
            if self._blobs is None or not self._blobs.has(handle):
                raise Refusal("malformed", f"the blob {handle} is not here: put it first")
        return tuple(dict.fromkeys(handles))

    @staticmethod
    def _check_rights(client: Client, envelope: Incoming) -> None:
        kind = envelope.payload.kind
        if envelope.source != client.name:
            raise Refusal("denied", f"{client.name} may not publish as {envelope.source}")
        if kind not in client.may_publish:
            if not subject_matcher(client.rights.publish)(kind):
                raise Refusal("denied", f"{client.name} may not publish {kind}")
            if len(client.may_publish) < KINDS_KEPT_MAX:
                client.may_publish.add(kind)
        if not envelope.session_id.startswith(client.rights.sessions):
            raise Refusal("denied", f"{client.name} may not publish in {envelope.session_id}")
        # A device is spoken of in its own sessions alone, and who may publish in those was just asked.
        device = envelope.device_id
        if device and envelope.session_id.split(":")[:2] != [DEVICE, device]:
            raise Refusal("denied", f"{client.name} may not speak of device {device} in {envelope.session_id}")
