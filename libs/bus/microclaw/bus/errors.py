"""What the bus can answer besides yes."""

from __future__ import annotations

from microclaw.core.errors import MicroclawError


class BusError(MicroclawError):
    """The bus could not do it."""


class EnvelopeError(BusError):
    """Not an envelope. `field` names what is wrong."""

    def __init__(self, field: str, why: str) -> None:
        self.field = field
        self.why = why
        super().__init__(f"envelope refused: {field}: {why}")


class EnvelopeTooBig(EnvelopeError):
    """Larger than the limit: send the body by reference."""

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes
        super().__init__("frame", f"{size_bytes} bytes, the limit is {limit_bytes}")


class Refused(BusError):
    """The broker will not take a message. `code` is one of `REFUSALS`."""

    exit_code = 4

    def __init__(self, code: str, why: str, retry_after_ms: int = 0) -> None:
        self.code = code
        self.why = why
        self.retry_after_ms = retry_after_ms
        super().__init__(f"{code}: {why}")


#: Why a broker refuses.
REFUSALS = ("no_space", "too_big", "denied", "version", "id_conflict", "busy", "malformed", "fenced", "damaged")


class BusTimeout(BusError):
    """The bus did not answer in time; whether it took effect is unknown."""

    exit_code = 5


class NoResponder(BusError):
    """Nobody of that name is connected to the bus."""

    exit_code = 5


class NotAnswered(BusError):
    """The service could not answer the question, and says why."""

    exit_code = 5


class Gap(BusError):
    """What follows the asked position is no longer kept."""

    def __init__(self, session_id: str, asked: int, first_seq: int) -> None:
        self.session_id = session_id
        self.asked = asked
        self.first_seq = first_seq
        super().__init__(f"{session_id}: messages after {asked} are gone; the first one kept is {first_seq}")


class EpochMismatch(BusError):
    """The asked position is ahead of the journal: it was restored from a backup or made anew."""
