"""The newest messages in memory, so that what was just stored is delivered without reading it back."""

from __future__ import annotations

from microclaw.bus.journal_schema import NewRow

#: Newest messages kept in memory for delivery: number and bytes.
TAIL_MESSAGES_MAX = 8_000
TAIL_BYTES_MAX = 8 << 20
#: So many more before they are cut: cutting a list moves all of it.
TAIL_SLACK = 1_000


class Tail:
    """The newest messages, as they were stored: their offsets have no gaps."""

    def __init__(self) -> None:
        self._rows: list[NewRow] = []
        #: The offset of the oldest.
        self._first = 0
        self._bytes = 0

    def clear(self) -> None:
        """Forget them."""
        self._rows.clear()
        self._bytes = 0

    def extend(self, rows: list[NewRow]) -> None:
        """These follow; the oldest go when there are too many."""
        if not self._rows:
            self._first = rows[0].offset
        self._rows += rows
        self._bytes += sum([len(row.body) for row in rows])
        excess = len(self._rows) - TAIL_MESSAGES_MAX
        if excess > TAIL_SLACK or self._bytes > TAIL_BYTES_MAX:
            gone = 0
            while gone < excess or self._bytes > TAIL_BYTES_MAX:
                self._bytes -= len(self._rows[gone].body)
                gone += 1
            del self._rows[:gone]
            self._first += gone

    def get(self, offset: int) -> NewRow | None:
        """One of them."""
        place = offset - self._first
        return self._rows[place] if 0 <= place < len(self._rows) else None

    def all(self, offsets: list[int]) -> list[NewRow] | None:
        """All of these, None = one of them is older."""
        first, rows = self._first, self._rows
        if not rows or min(offsets) < first:
            return None
        return [rows[offset - first] for offset in offsets]

    def after(self, offset: int, limit: int) -> list[NewRow]:
        """From this offset on; none when it is older than the oldest."""
        place = offset - self._first
        return self._rows[place:place + limit] if place >= 0 else []
