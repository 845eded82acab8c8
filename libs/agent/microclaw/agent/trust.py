"""The certificates that programs in here trust: the machine's, and the authority by which egress reads their TLS.

Egress has an authority for this worker alone, and another one after each of its starts. Which one is in force it says
in a header, and the file is made anew whenever that is another one than before.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from microclaw.agent.asking_door import ask_door

#: Certificates of the machine, in the first of these files that is there; else those that Python packages bring.
BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")


class Trust:
    """One file of certificates."""

    def __init__(self, door: Path) -> None:
        self._door = door
        self._folder: Path | None = None
        #: Of the authority that is in the file; None = there is no file yet.
        self._known: str | None = None
        self._changing = asyncio.Lock()
        #: The file's path; "" = none can be made or has anything in it: each program's own idea.
        self.bundle = ""

    async def keep(self, fingerprint: str) -> None:
        """The file has this authority of egress's in it, from now on ("" = none: egress does not read TLS)."""
        async with self._changing:
            if fingerprint == self._known and _is_file(self.bundle):
                return
            authority = b""
            try:
                if fingerprint:
                    _, authority = await ask_door(self._door, "/authority.pem")
                self._write(authority)
                self._known = fingerprint
            except OSError:
                # Egress is away for a moment, or /tmp is full. There is a place at least, where a later one finds it.
                if not self.bundle:
                    with suppress(OSError):
                        self._write(b"")

    def close(self) -> None:
        """Remove the file."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _write(self, authority: bytes) -> None:
        roots = _machines_roots()
        if not roots and not authority:
            self.bundle = ""
            return
        if self._folder is None or not self._folder.is_dir():
            self._folder = Path(tempfile.mkdtemp(prefix="microclaw-trust-"))
        new, bundle = self._folder / "new.pem", self._folder / "certificates.pem"
        new.write_bytes(roots + b"\n" + authority)
        # At once: a program may be reading it.
        new.rename(bundle)
        # The one program that is told by a file of its own settings.
        (self._folder / "wgetrc").write_text(f"ca_certificate = {bundle}\n")
        self.bundle = str(bundle)


def _machines_roots() -> bytes:
    found = next(filter(_is_file, BUNDLES), "")
    if not found:
        with suppress(ImportError):
            import certifi

            found = certifi.where()
    return Path(found).read_bytes() if found else b""


def _is_file(path: str) -> bool:
    return Path(path).is_file()
