"""Talking to the IMAP server; blocking, so each session lives in a thread of its own.

IDLE (RFC 2177) is renewed long before the 29 minutes after which servers may hang up, and before NAT boxes forget a
quiet connection; after each renewal the folder is looked through by UID, because a notice can be lost. A server
without IDLE is asked again and again.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date, datetime

from imapclient import IMAPClient
from imapclient.exceptions import IMAPClientError, LoginError

from microclaw.channel.link import LoggedOut, Unreachable
from microclaw.core.channel_settings import Email

#: Silence of the server while it should answer.
ANSWER_S_MAX = 30.0
#: IDLE is renewed after this.
IDLE_S = 9 * 60.0
#: The kernel asks a silent server whether it is still there.
KEEPALIVE_S = 60
#: Mails of one look, and the largest one that is fetched.
FETCH_MAX = 20
MAIL_BYTES_MAX = 64 << 20

#: What goes wrong with a connection, as the library raises it.
FAILURES = (OSError, IMAPClientError, ssl.SSLError)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A mail as the server has it."""

    uid: int
    arrived: datetime
    #: None: larger than `MAIL_BYTES_MAX`, only its header was fetched.
    raw: bytes
    size_bytes: int
    whole: bool


class Mailbox:
    """One session with a folder selected."""

    def __init__(self, client: IMAPClient, folder: str) -> None:
        self._client = client
        chosen = client.select_folder(folder)
        self.uidvalidity = int(chosen[b"UIDVALIDITY"])
        self.uidnext = int(chosen.get(b"UIDNEXT", 0)) or self._next_uid()
        self.can_idle = client.has_capability("IDLE")

    def new_since(self, uid: int) -> list[Fetched]:
        """The oldest mails behind this UID."""
        # `N:*` always names the last mail, also if it is older.
        uids = sorted(found for found in self._client.search(["UID", f"{uid + 1}:*"]) if found > uid)
        return self.fetch(uids[:FETCH_MAX])

    def since(self, day: date) -> list[int]:
        """UIDs of mails that arrived on this day or later."""
        return sorted(self._client.search(["SINCE", day]))

    def fetch(self, uids: list[int]) -> list[Fetched]:
        """These mails, in the order of their UIDs. Nothing is marked."""
        if not uids:
            return []
        facts = self._client.fetch(uids, ["RFC822.SIZE", "INTERNALDATE"])
        found = []
        for uid in sorted(facts):
            size = int(facts[uid][b"RFC822.SIZE"])
            whole = size <= MAIL_BYTES_MAX
            body = self._client.fetch([uid], ["BODY.PEEK[]" if whole else "BODY.PEEK[HEADER]"]).get(uid)
            if body is None:
                # Deleted meanwhile.
                continue
            raw = body[b"BODY[]" if whole else b"BODY[HEADER]"]
            found.append(Fetched(uid, facts[uid][b"INTERNALDATE"], raw, size, whole))
        return found

    def mark_read(self, uids: list[int]) -> None:
        """The journal has them."""
        if uids:
            self._client.add_flags(uids, [b"\\Seen"], silent=True)

    def wait(self, poll_s: float) -> None:
        """Until something may have come, or it is time to look anyway."""
        if not self.can_idle:
            self._sleep(poll_s)
            self._client.noop()
            return
        self._client.idle()
        try:
            until = time.monotonic() + IDLE_S
            while not self._has_more() and (left := until - time.monotonic()) > 0:
                said = self._client.idle_check(timeout=left)
                # Nothing: the time is over, or the connection is (the library says the same for both).
                if not said or any(_tells_of_mail(each) for each in said):
                    break
        finally:
            # The server's answer to this is the evidence that it lives.
            self._client.idle_done()

    def sent_folder(self, configured: str) -> str:
        """The folder of sent mail, as configured or as the server marks it (RFC 6154); "" = there is none."""
        if configured:
            return configured
        return str(self._client.find_special_folder(b"\\Sent") or "")

    def holds(self, folder: str, message_id: str) -> bool:
        """Whether a folder has the mail with this Message-ID."""
        self._client.select_folder(folder, readonly=True)
        return bool(self._client.search(["HEADER", "Message-ID", f"<{message_id}>"]))

    def put(self, folder: str, raw: bytes) -> None:
        """Add a mail that was read."""
        if not self._client.folder_exists(folder):
            self._client.create_folder(folder)
        self._client.append(folder, raw, flags=(b"\\Seen",))

    def _next_uid(self) -> int:
        return max(self._client.search(["ALL"]), default=0) + 1

    def _has_more(self) -> bool:
        """Whether lines came together with those that were read: they lie in the reader's buffer, and the library,
        which asks the socket, would not see them before the next ones come."""
        sock = self._client.socket()
        sock.settimeout(0.0)
        try:
            return bool(self._client._imap.file.peek(1))
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        finally:
            sock.settimeout(ANSWER_S_MAX)

    def _sleep(self, seconds: float) -> None:
        # On the socket, so that a cut connection ends it: whoever stops us cuts it.
        select.select([self._client.socket()], [], [], seconds)


def _tells_of_mail(said: object) -> bool:
    return isinstance(said, tuple) and len(said) > 1 and said[1] in (b"EXISTS", b"RECENT")


class Session:
    """A connection that another thread may cut."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._cut = False

    def cut(self) -> None:
        """End it, whatever it waits for."""
        self._cut = True
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def open(self, settings: Email, password: str, folder: str) -> Iterator[Mailbox]:
        """Log in and select a folder; every failure of the connection inside becomes `Unreachable`.

        :raises Unreachable: the server can't be reached, or went away. :raises LoggedOut: it refuses the password.
        """
        try:
            client = connected(settings)
            self._socket = client.socket()
            if self._cut:
                raise Unreachable("stopping")
            try:
                client.login(settings.user or settings.address, password)
            except LoginError as error:
                raise LoggedOut(
                    f"{settings.imap_host} refuses the password of {settings.user or settings.address} ({error}): set "
                    f"it with `microclaw secrets set {settings.password}`"
                ) from error
            yield Mailbox(client, folder)
            with suppress(*FAILURES):
                client.logout()
        except FAILURES as error:
            raise Unreachable(f"{settings.imap_host}: {error or type(error).__name__}") from error
        finally:
            if self._socket is not None:
                with suppress(OSError):
                    self._socket.close()


def tls(settings: Email) -> ssl.SSLContext:
    """What is trusted: the system's authorities, or those that the configuration names alone."""
    return ssl.create_default_context(cafile=settings.ca_file or None)


def connected(settings: Email) -> IMAPClient:
    """An encrypted connection; a password never goes over another."""
    direct = settings.imap_security == "tls"
    client = IMAPClient(
        settings.imap_host, settings.imap_port, ssl=direct, ssl_context=tls(settings) if direct else None,
        timeout=ANSWER_S_MAX,
    )
    if not direct:
        client.starttls(tls(settings))
    sock = client.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
    return client
