"""The systems' own keepers of secrets, by their command lines. A value goes in by standard input, never by argument."""

from __future__ import annotations

import base64
import binascii
import shutil
import subprocess
from collections.abc import Sequence
from typing import Protocol

from microclaw.core.errors import UnhealthyError

#: One question to a program; a keeper that is locked would ask a person who may not be there.
ASK_S_MAX = 20.0
#: Our items among all others of the person.
SERVICE = "microclaw"


class KeeperError(UnhealthyError):
    """The keeper does not keep."""


class Keeper(Protocol):
    """One of them. Items are told apart by (installation, name)."""

    #: For people.
    called: str

    def put(self, installation: str, name: str, value: str) -> None:
        """Keep or replace. :raises KeeperError:"""
        ...

    def get(self, installation: str, name: str) -> str | None:
        """None = there is none. :raises KeeperError:"""
        ...

    def clear(self, installation: str, name: str) -> None:
        """Forget it, if it is there. :raises KeeperError:"""
        ...


class Keychain:
    """macOS, the person's login keychain, by `security`."""

    called = "keychain"

    #: `security -i` reads lines of this length.
    LINE_BYTES_MAX = 4096
    #: errSecItemNotFound as an exit code.
    NOT_FOUND = 44
    #: In base64: `security` shows anything but plain ASCII in hexadecimal, and its lines have rules of quoting.
    PREFIX = "microclaw-base64:"

    def put(self, installation: str, name: str, value: str) -> None:
        kept = self.PREFIX + base64.b64encode(value.encode()).decode()
        line = f"add-generic-password -U -s {_service(installation)} -a {name} -w {kept}\n"
        if len(line) > self.LINE_BYTES_MAX:
            raise KeeperError(f"{name} is too long for the keychain's command line: set secrets.store = \"file\"")
        done = _ask(("security", "-i"), line, self.called)
        # In this mode the exit code tells of the last line or of nothing, by version: what is there tells.
        if done.returncode or self.get(installation, name) != value:
            raise _failed(done, self.called)

    def get(self, installation: str, name: str) -> str | None:
        done = _ask(
            ("security", "find-generic-password", "-s", _service(installation), "-a", name, "-w"), "", self.called
        )
        if done.returncode == self.NOT_FOUND:
            return None
        if done.returncode:
            raise _failed(done, self.called)
        text = done.stdout.rstrip("\n")
        try:
            return base64.b64decode(text.removeprefix(self.PREFIX), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise KeeperError(f"the keychain's item for {name} was changed by somebody else: set it again") from None

    def clear(self, installation: str, name: str) -> None:
        done = _ask(
            ("security", "delete-generic-password", "-s", _service(installation), "-a", name), "", self.called
        )
        if done.returncode not in (0, self.NOT_FOUND):
            raise _failed(done, self.called)


class SecretService:
    """Linux desktops, by `secret-tool` of libsecret."""

    called = "Secret Service"

    def put(self, installation: str, name: str, value: str) -> None:
        label = f"MicroClaw: {name}"
        done = _ask(("secret-tool", "store", f"--label={label}", *_attributes(installation, name)), value, self.called)
        if done.returncode:
            raise _failed(done, self.called)

    def get(self, installation: str, name: str) -> str | None:
        done = _ask(("secret-tool", "lookup", *_attributes(installation, name)), "", self.called)
        if done.returncode and not done.stderr.strip():
            return None  # it says nothing where there is nothing
        if done.returncode:
            raise _failed(done, self.called)
        return done.stdout

    def clear(self, installation: str, name: str) -> None:
        done = _ask(("secret-tool", "clear", *_attributes(installation, name)), "", self.called)
        if done.returncode and done.stderr.strip():
            raise _failed(done, self.called)


def keeper_for(store: str) -> Keeper:
    """The one that `secrets.store` names."""
    return Keychain() if store == "keychain" else SecretService()


def _service(installation: str) -> str:
    return f"{SERVICE}.{installation}"


def _attributes(installation: str, name: str) -> tuple[str, ...]:
    return ("service", SERVICE, "installation", installation, "name", name)


def _ask(argv: Sequence[str], text: str, called: str) -> subprocess.CompletedProcess[str]:
    if shutil.which(argv[0]) is None:
        package = "; install libsecret-tools" if argv[0] == "secret-tool" else ""
        raise KeeperError(f"the {called} needs the program {argv[0]}{package}, or set secrets.store = \"file\"")
    try:
        return subprocess.run(
            argv, input=text, capture_output=True, text=True, timeout=ASK_S_MAX, check=False,
        )
    except subprocess.TimeoutExpired:
        raise KeeperError(
            f"the {called} gave no answer within {ASK_S_MAX:g} s: unlock it, or set secrets.store = \"file\""
        ) from None


def _failed(done: subprocess.CompletedProcess[str], called: str) -> KeeperError:
    said = (done.stderr.strip().splitlines() or ["no word"])[-1][:200]
    return KeeperError(f"the {called} failed ({said}): unlock it, or set secrets.store = \"file\"")
