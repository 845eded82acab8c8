"""Where secrets lie at rest: files of our own, or the system's keeper (macOS Keychain, Secret Service).

A keeper can't be asked which items are ours without a question to the person, so their names are kept beside it, in an
index that holds no value. What was kept elsewhere before is moved when the configuration changes.
"""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import Protocol

import msgspec

from microclaw.core.errors import UnhealthyError
from microclaw.egress.secret_keepers import Keeper, KeeperError, keeper_for

#: The index of what a keeper has for us, in the secrets' folder.
INDEX = ".index.json"
#: A value of no worth, by which a keeper shows that it keeps.
_PROBE_NAME, _PROBE_VALUE = "microclaw-probe", "a value of no worth"


class Vault(Protocol):
    """One place. Names are those that `SecretStore` admits."""

    #: As in `secrets.store`.
    store: str

    def names(self) -> dict[str, int]:
        """Name → when it was set, Unix milliseconds."""
        ...

    def read(self, name: str) -> str | None:
        """None = it is not there any more. :raises UnhealthyError: it can't be had; what to do."""
        ...

    def write(self, name: str, value: str) -> int:
        """Kept when this returns; the moment. :raises UnhealthyError: it is not, and the former value is."""
        ...

    def remove(self, name: str) -> None:
        """Forget it; one that is not there is no error. :raises UnhealthyError:"""
        ...


class Files:
    """One file each, 0600 in a folder of 0700."""

    store = "file"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> dict[str, int]:
        found = {}
        for path in sorted(self._folder.iterdir()):
            if not path.name.startswith("."):
                check_private(path, 0o600)
                found[path.name] = path.stat().st_mtime_ns // 1_000_000
        return found

    def read(self, name: str) -> str | None:
        path = self._folder / name
        check_private(path, 0o600)
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = type(error).__name__
            raise UnhealthyError(f"the secret {name} can't be read ({why}): set it again") from None

    def write(self, name: str, value: str) -> int:
        write_private(self._folder / name, value)
        return (self._folder / name).stat().st_mtime_ns // 1_000_000

    def remove(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)
        _sync(self._folder)


class _Index(msgspec.Struct, kw_only=True):
    #: As in `secrets.store`.
    store: str
    #: Tells the items of this installation from another's of the same person.
    installation: str
    names: dict[str, int] = {}


class Kept:
    """A keeper of the system's, and the index of what it has for us."""

    def __init__(self, folder: Path, keeper: Keeper, index: _Index) -> None:
        self.store = index.store
        self._file = folder / INDEX
        self._keeper = keeper
        self._index = index

    def names(self) -> dict[str, int]:
        return dict(sorted(self._index.names.items()))

    def read(self, name: str) -> str | None:
        return self._keeper.get(self._index.installation, name)

    def write(self, name: str, value: str) -> int:
        # The name first: an item that the index does not know would stay for ever, a name without an item is no harm.
        now_ms = time.time_ns() // 1_000_000
        before = self._index.names
        self._note({**before, name: now_ms})
        try:
            self._keeper.put(self._index.installation, name, value)
        except KeeperError:
            self._note(before)
            raise
        return now_ms

    def remove(self, name: str) -> None:
        self._keeper.clear(self._index.installation, name)
        self._note({other: ms for other, ms in self._index.names.items() if other != name})

    def _note(self, names: dict[str, int]) -> None:
        self._index.names = names
        write_private(self._file, msgspec.json.encode(self._index).decode())


def open_vault(folder: Path, store: str, platform: str) -> Vault:
    """The place that `secrets.store` means here, with all that was kept elsewhere before moved into it.

    `auto`: where the secrets are; for a new installation the keychain of macOS if it works, else files.

    :raises UnhealthyError: the folder or a file is open to others, or the keeper does not work; what to do.
    """
    files, index = Files(folder), _read_index(folder)
    if store == "auto":
        store = index.store if index and (index.names or not files.names()) else "file"
        if index is None and platform == "darwin" and not files.names() and _works(keeper_for("keychain")):
            store = "keychain"
    wanted: Vault = files
    if store != "file":
        current = index if index and index.store == store else _Index(store=store, installation=os.urandom(8).hex())
        keeper = keeper_for(store)
        wanted = Kept(folder, keeper, current)
    if index is not None and index.store != store:
        _move(Kept(folder, keeper_for(index.store), index), wanted)
        if store == "file":
            (folder / INDEX).unlink()
    if store != "file":
        _move(files, wanted)
    return wanted


def _move(old: Vault, new: Vault) -> None:
    for name in old.names():
        value = old.read(name)
        if value is not None:
            new.write(name, value)
            if new.read(name) != value:
                raise UnhealthyError(
                    f"the secret {name} could not be moved to secrets.store = {new.store}: choose another"
                )
        old.remove(name)


def _works(keeper: Keeper) -> bool:
    try:
        keeper.put(_PROBE_NAME, _PROBE_NAME, _PROBE_VALUE)
        same = keeper.get(_PROBE_NAME, _PROBE_NAME) == _PROBE_VALUE
        keeper.clear(_PROBE_NAME, _PROBE_NAME)
    except KeeperError:
        return False
    return same


def _read_index(folder: Path) -> _Index | None:
    path = folder / INDEX
    if not path.exists():
        return None
    check_private(path, 0o600)
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Index)
    except (msgspec.DecodeError, OSError) as error:
        raise UnhealthyError(f"{path} can't be read ({error}): put the copy from a backup there") from None


def check_private(path: Path, mode: int) -> None:
    """:raises UnhealthyError: others may read it, or it is no plain file (0600) or folder (0700)."""
    facts = path.lstat()
    wanted = stat.S_ISDIR if mode == 0o700 else stat.S_ISREG
    if not wanted(facts.st_mode) or facts.st_uid != os.getuid() or stat.S_IMODE(facts.st_mode) & 0o077:
        raise UnhealthyError(f"{path} must be yours alone: chown {os.getuid()} and chmod {mode:o} it")


def write_private(path: Path, text: str) -> None:
    """Replace the file; on disk when this returns."""
    partial = path.with_name(f".{path.name}.new")
    partial.unlink(missing_ok=True)
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(handle)
    partial.replace(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
