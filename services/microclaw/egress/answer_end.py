"""What may end a model's answer is kept back until the call is written down, so that none is ever unseen: a worker
that goes on has been metered and audited, wherever egress is killed."""

from __future__ import annotations

#: What clients of both dialects end at, or break off at, before a stream of events ends.
_ENDS = (b"message_stop", b"[DONE]", b"event: error", b'"error"')
#: An end may come in two pieces.
_OVERLAP_BYTES = max(map(len, _ENDS)) - 1


class AnswerEnd:
    """Of one answer. Give it each piece; what it gives back may go now."""

    def __init__(self, *, streamed: bool) -> None:
        """`streamed`: events, which pass one by one until one may be the last. Else the last piece is the end."""
        self._streamed = streamed
        self._seen = b""
        self._ending = False
        self._kept = bytearray()

    def feed(self, piece: bytes) -> bytes:
        """What may go of all that came."""
        if not self._streamed:
            passed, self._kept = bytes(self._kept), bytearray(piece)
            return passed
        near = self._seen + piece
        self._seen = near[-_OVERLAP_BYTES:]
        self._ending = self._ending or any(end in near for end in _ENDS)
        if not self._ending:
            return piece
        self._kept += piece
        return b""

    def rest(self) -> bytes:
        """What was kept back."""
        kept, self._kept = bytes(self._kept), bytearray()
        return kept
