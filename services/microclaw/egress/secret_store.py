"""Secrets: one file each below the installation's `secrets` folder, read by this process alone.

The folder is 0700 and the files 0600; a folder or file that others can read is refused at start. Values are held in
memory because every answer is searched for them. There is no way to ask for a value: only names, ages, fingerprints.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from microclaw.core.errors import MicroclawError, UnhealthyError
from microclaw.core.scrub import SECRET_CHARS_MAX, SECRET_CHARS_MIN, Scrubber

#: Secrets in one installation.
SECRETS_MAX = 200

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
#: Salts the fingerprints, so that one can't be looked up in a table of common values.
_SALT = ".salt"


class SecretError(MicroclawError):
    """The secret can't be kept."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What may be told of a secret."""

    name: str
    set_ms: int
    #: Eight hexadecimal characters: the same value has the same ones in this installation.
    fingerprint: str


class SecretStore:
    """All secrets, in memory and on disk."""

    def __init__(self, folder: Path) -> None:
        """:raises UnhealthyError: the folder or a file in it is open to others, or can't be read."""
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_private(folder, 0o700)
        self._values: dict[str, str] = {}
        self._set_ms: dict[str, int] = {}
        for path in sorted(folder.iterdir()):
            if path.name.startswith("."):
                continue
            _check_private(path, 0o600)
            try:
                self._values[path.name] = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                why = type(error).__name__
                raise UnhealthyError(f"the secret {path.name} can't be read ({why}): set it again") from None
            self._set_ms[path.name] = path.stat().st_mtime_ns // 1_000_000
        self._salt = self._load_salt()
        #: Masks everything kept here, and values that were replaced since this process started.
        self.scrubber = Scrubber()
        self._former: list[str] = []
        self._renew()

    @property
    def sentinel_key(self) -> bytes:
        """What sentinels are made with; the same for as long as the installation lives."""
        return hashlib.blake2b(self._salt, person=b"sentinels").digest()

    def value(self, name: str) -> str | None:
        """The value, for use inside this process; None = there is none."""
        return self._values.get(name)

    def names(self) -> list[Kept]:
        """All secrets, by name."""
        return [
            Kept(name, self._set_ms[name], self._fingerprint(value)) for name, value in sorted(self._values.items())
        ]

    def set(self, name: str, value: str, *, must_exist: bool = False) -> Kept:
        """Keep or replace a secret; in force when this returns. :raises SecretError: the name or value won't do."""
        if not _NAME.fullmatch(name):
            raise SecretError("a secret's name is a letter, then at most 63 letters, digits, _ and -: choose another")
        if must_exist and name not in self._values:
            raise SecretError(f"there is no secret {name} to rotate: `microclaw secrets set {name}` makes it")
        if not SECRET_CHARS_MIN <= len(value) <= SECRET_CHARS_MAX or not value.isprintable() or value != value.strip():
            raise SecretError(
                f"the value of {name} is not {SECRET_CHARS_MIN} to {SECRET_CHARS_MAX} printable characters in one "
                "line: copy it again"
            )
        if name not in self._values and len(self._values) >= SECRETS_MAX:
            raise SecretError(f"there are {SECRETS_MAX} secrets already: remove one with `microclaw secrets rm`")
        path = self._folder / name
        self._write(path, value)
        if self._values.get(name, value) != value:
            self._former.append(self._values[name])
        self._values[name] = value
        self._set_ms[name] = path.stat().st_mtime_ns // 1_000_000
        self._renew()
        return Kept(name, self._set_ms[name], self._fingerprint(value))

    def remove(self, name: str) -> bool:
        """Forget a secret; False if there was none. Its value stays masked as long as this process lives."""
        if name not in self._values:
            return False
        (self._folder / name).unlink(missing_ok=True)
        self._sync_folder()
        self._former.append(self._values.pop(name))
        del self._set_ms[name]
        self._renew()
        return True

    def _renew(self) -> None:
        self._former = self._former[-SECRETS_MAX:]
        self.scrubber = Scrubber([*self._values.values(), *self._former])

    def _fingerprint(self, value: str) -> str:
        return hashlib.blake2b(value.encode(), key=self._salt, digest_size=4).hexdigest()

    def _load_salt(self) -> bytes:
        path = self._folder / _SALT
        if not path.exists():
            self._write(path, os.urandom(32).hex())
        _check_private(path, 0o600)
        return bytes.fromhex(path.read_text(encoding="ascii"))

    def _write(self, path: Path, text: str) -> None:
        partial = self._folder / f".{path.name}.new"
        partial.unlink(missing_ok=True)
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(handle)
        partial.replace(path)
        self._sync_folder()

    def _sync_folder(self) -> None:
        handle = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _check_private(path: Path, mode: int) -> None:
    facts = path.lstat()
    wanted = stat.S_ISDIR if mode == 0o700 else stat.S_ISREG
    if not wanted(facts.st_mode) or facts.st_uid != os.getuid() or stat.S_IMODE(facts.st_mode) & 0o077:
        raise UnhealthyError(f"{path} must be yours alone: chown {os.getuid()} and chmod {mode:o} it")
