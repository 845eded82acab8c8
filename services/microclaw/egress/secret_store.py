"""Secrets: kept in a vault (`secret_vaults.py`), read by this process alone.

The folder is 0700 and files in it 0600; one that others can read is refused at start. Values are held in memory because
every answer is searched for them. There is no way to ask for a value: only names, ages, fingerprints.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from microclaw.core.errors import MicroclawError
from microclaw.core.scrub import SECRET_CHARS_MAX, SECRET_CHARS_MIN, Scrubber
from microclaw.egress.secret_vaults import check_private, open_vault, write_private

#: Secrets in one installation.
SECRETS_MAX = 200

log = logging.getLogger("microclaw.egress")

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
    """All secrets, in memory and in their vault."""

    def __init__(self, folder: Path, store: str = "file", *, platform: str = sys.platform) -> None:
        """`store`: as `secrets.store` in the configuration.

        :raises UnhealthyError: the folder or a file in it is open to others, or the vault can't be read.
        """
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_private(folder, 0o700)
        self._vault = open_vault(folder, store, platform)
        self._set_ms: dict[str, int] = {}
        self._values: dict[str, str] = {}
        for name, set_ms in self._vault.names().items():
            value = self._vault.read(name)
            if value is None:
                log.warning("a secret is gone from where it was kept", extra={"secret": name, "store": self.store})
                continue
            self._values[name], self._set_ms[name] = value, set_ms
        self._salt = self._load_salt()
        #: Masks everything kept here, and values that were replaced since this process started.
        self.scrubber = Scrubber()
        self._former: list[str] = []
        self._renew()

    @property
    def sentinel_key(self) -> bytes:
        """What sentinels are made with; the same for as long as the installation lives."""
        return hashlib.blake2b(self._salt, person=b"sentinels").digest()

    @property
    def store(self) -> str:
        """Where they lie: `file`, `keychain` or `secret-service`."""
        return self._vault.store

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
        set_ms = self._vault.write(name, value)
        if self._values.get(name, value) != value:
            self._former.append(self._values[name])
        self._values[name] = value
        self._set_ms[name] = set_ms
        self._renew()
        return Kept(name, self._set_ms[name], self._fingerprint(value))

    def remove(self, name: str) -> bool:
        """Forget a secret; False if there was none. Its value stays masked as long as this process lives."""
        if name not in self._values:
            return False
        self._vault.remove(name)
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
            write_private(path, os.urandom(32).hex())
        check_private(path, 0o600)
        return bytes.fromhex(path.read_text(encoding="ascii"))
