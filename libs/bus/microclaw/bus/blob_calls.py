"""What clients ask of the blob store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from microclaw.bus.blobs import BlobStore
from microclaw.bus.calls import Client
from microclaw.bus.errors import Refused
from microclaw.bus.intake import check_counts
from microclaw.bus.room import NO_SPACE_RETRY_MS
from microclaw.bus.wire import Op

#: (routing id, operation): say this to a client.
Say = Callable[[bytes, list[Any]], None]


class BlobCalls:
    """Parts of blobs in and out; what can't be had is refused."""

    def __init__(self, blobs: BlobStore | None, say: Say) -> None:
        self._blobs = blobs
        self._say = say

    def put(self, client: Client, rid: int, handle: str, start: int, part: bytes, last: bool) -> None:
        check_counts(rid, start)
        try:
            if self._blobs is None:
                raise Refused("denied", "this broker keeps no blobs")
            done = self._blobs.put(client.instance, handle, start, part, last=last)
        except Refused as refused:
            self._say(client.routing, [Op.REFUSED, rid, refused.code, refused.why, refused.retry_after_ms])
        except OSError as error:
            why = f"the blob can't be written: {error}"
            self._say(client.routing, [Op.REFUSED, rid, "no_space", why, NO_SPACE_RETRY_MS])
        else:
            self._say(client.routing, [Op.BLOB_PUT, rid, done])

    def get(self, client: Client, rid: int, handle: str, start: int) -> None:
        check_counts(rid, start)
        try:
            if self._blobs is None:
                raise Refused("denied", "this broker keeps no blobs")
            part, size = self._blobs.get(handle, start)
        except Refused as refused:
            self._say(client.routing, [Op.REFUSED, rid, refused.code, refused.why, 0])
        else:
            self._say(client.routing, [Op.BLOB_GET, rid, part, size])
