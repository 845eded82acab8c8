"""Large bodies: files beside the journal, named by their content. Written and deleted by the broker alone.

A blob comes in parts, is checked against its name, brought to disk and renamed into place: it is there whole or not
at all. Messages refer to it; retention deletes it when no kept message does, and no sooner than `GRACE_S` after it
came, so that who puts a blob first and publishes then is in no hurry.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from microclaw.bus.errors import Refused

#: Largest blob.
BLOB_BYTES_MAX = 64 << 20
#: One part of a transfer.
PART_BYTES_MAX = 1 << 20
#: A blob that no message refers to is kept for so long.
GRACE_S = 24 * 3600.0
#: Blobs that come in at the same time.
UPLOADS_MAX = 16

_HANDLE = re.compile(r"sha256:[0-9a-f]{64}\Z")


def handle_of(data: bytes) -> str:
    """The name of these bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def check_handle(handle: str) -> None:
    """Raises Refused (`malformed`)."""
    if not _HANDLE.match(handle):
        raise Refused("malformed", f"{handle[:80]!r} is no blob handle (sha256:…)")


class _Upload:
    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file = file
        self.path = path
        self.digest = hashlib.sha256()
        self.size = 0


class BlobStore:
    """The folder of blobs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)
        self._uploads: dict[tuple[bytes, str], _Upload] = {}
        for leftover in folder.glob("*.part"):
            leftover.unlink()

    def path(self, handle: str) -> Path:
        """Where a blob is, or would be. Raises Refused (`malformed`)."""
        check_handle(handle)
        name = handle.removeprefix("sha256:")
        return self._folder / name[:2] / name

    def has(self, handle: str) -> bool:
        """It is there, whole."""
        return self.path(handle).is_file()

    def put(self, who: bytes, handle: str, start: int, part: bytes, *, last: bool) -> bool:
        """The next part of a blob, `start` bytes in. True = it is on disk, whole (parts are not needed any more).

        :raises Refused: too big, out of order, too many at once, or not what its name says.
        """
        path = self.path(handle)
        if path.is_file():
            # Its grace starts anew: who puts it now names it soon.
            os.utime(path)
            return True
        upload = self._upload(who, handle, start)
        upload.size += len(part)
        if upload.size > BLOB_BYTES_MAX or len(part) > PART_BYTES_MAX:
            self._drop(who, handle)
            raise Refused("too_big", f"a blob has {BLOB_BYTES_MAX} bytes at most, a part {PART_BYTES_MAX}")
        upload.digest.update(part)
        upload.file.write(part)
        if not last:
            return False
        if f"sha256:{upload.digest.hexdigest()}" != handle:
            self._drop(who, handle)
            raise Refused("malformed", "the blob is not what its name says: send it again")
        upload.file.flush()
        os.fsync(upload.file.fileno())
        upload.file.close()
        path.parent.mkdir(mode=0o700, exist_ok=True)
        upload.path.rename(path)
        for folder in (path.parent, self._folder):
            _sync_folder(folder)
        del self._uploads[who, handle]
        return True

    def _upload(self, who: bytes, handle: str, start: int) -> _Upload:
        upload = self._uploads.get((who, handle))
        if start == 0:
            self._drop(who, handle)
            if len(self._uploads) >= UPLOADS_MAX:
                raise Refused("busy", f"{UPLOADS_MAX} blobs are coming in", 500)
            path = self._folder / f"{handle.removeprefix('sha256:')}-{who.hex()}.part"
            upload = self._uploads[who, handle] = _Upload(path.open("wb"), path)
        elif upload is None or upload.size != start:
            raise Refused("malformed", f"part {start} of the blob does not follow: begin anew")
        return upload

    def _drop(self, who: bytes, handle: str) -> None:
        if upload := self._uploads.pop((who, handle), None):
            upload.file.close()
            upload.path.unlink(missing_ok=True)

    def gone(self, who: bytes) -> None:
        """Its sender went away."""
        for owner, handle in list(self._uploads):
            if owner == who:
                self._drop(owner, handle)

    def get(self, handle: str, start: int) -> tuple[bytes, int]:
        """(a part of the blob from `start` on, its whole size). Raises Refused (`malformed`: it is not there)."""
        path = self.path(handle)
        try:
            with path.open("rb") as file:
                file.seek(start)
                return file.read(PART_BYTES_MAX), os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            raise Refused("malformed", f"{handle} is not kept here") from None

    def all(self) -> Iterator[str]:
        """The handles of all blobs."""
        for path in self._folder.glob("??/*"):
            yield f"sha256:{path.name}"

    def is_old(self, handle: str, now_s: float) -> bool:
        """It came more than `GRACE_S` ago."""
        return self.path(handle).stat().st_mtime < now_s - GRACE_S

    def delete(self, handle: str) -> None:
        """Nobody refers to it any more."""
        self.path(handle).unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
