"""A real IMAP server (Debian's Dovecot, on TLS, in a folder of its own) and a real SMTP server (aiosmtpd) that fails on
demand. Mails come in as files in the Maildir, as a mail server puts them there."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import socket
import subprocess
import time
import warnings
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default
from pathlib import Path

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from tests.contract.egress.authority import Authority

PASSWORD = "canary-password"
ADDRESS = "bot@example.org"
READY_S = 30.0

_CONF = """
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/dovecot.log
protocols = imap
listen = 127.0.0.1
ssl = required
ssl_cert = <{certificate}
ssl_key = <{key}
auth_mechanisms = plain
mail_location = maildir:{folder}/mail
first_valid_uid = 0
default_internal_user = {user}
default_login_user = {login_user}
{capability}
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={folder}/home
}}
namespace inbox {{
  inbox = yes
  mailbox Sent {{
    special_use = \\Sent
    auto = create
  }}
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = 0
  }}
  inet_listener imaps {{
    port = {port}
    ssl = yes
  }}
}}
service anvil {{
  chroot =
}}
service stats {{
  chroot =
}}
"""

_NO_IDLE = "imap_capability = IMAP4rev1 SASL-IR LITERAL+ ENABLE NAMESPACE SPECIAL-USE"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Dovecot:
    """The IMAP server with one mailbox."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        if shutil.which("dovecot") is None:
            reason = "Dovecot is not installed (Debian: dovecot-imapd)"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
        self.folder = folder
        self.port = free_port()
        #: Without IDLE.
        self.plain = False
        self._authority = authority
        self._process: subprocess.Popen[bytes] | None = None
        self._number = 0
        for name in ("mail/new", "mail/cur", "mail/tmp", "home"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        root = os.getuid() == 0
        # Dovecot refuses to read mail as root; the files are another user's then.
        uid, gid = (8, 8) if root else (os.getuid(), os.getgid())
        names = ("dovecot", "dovenull") if root else (os.environ.get("USER", str(uid)),) * 2
        (self.folder / "dovecot.conf").write_text(_CONF.format(
            folder=self.folder, certificate=self._authority.certificate, key=self._authority.key, user=names[0],
            login_user=names[1], uid=uid, gid=gid, password=PASSWORD, port=self.port,
            capability=_NO_IDLE if self.plain else "",
        ))
        self._own()
        self._process = subprocess.Popen(
            ["dovecot", "-c", str(self.folder / "dovecot.conf"), "-F"], stdin=subprocess.DEVNULL,
            stdout=(self.folder / "out.log").open("ab"), stderr=subprocess.STDOUT,
        )
        until = time.monotonic() + READY_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                if time.monotonic() > until or self._process.poll() is not None:
                    said = [path.read_text() for path in self.folder.glob("*.log")]
                    raise AssertionError(f"Dovecot does not start: {said}") from None
                time.sleep(0.05)

    def stop(self) -> None:
        """End it and its children, and so every connection."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def renumber(self) -> None:
        """Forget all UIDs (while stopped): UIDVALIDITY changes."""
        for path in self.folder.rglob("dovecot*"):
            if path.parent != self.folder and path.is_file():
                path.unlink()

    def arrives(self, raw: bytes) -> None:
        """A mail is delivered."""
        self._number += 1
        name = f"{time.time():.6f}.{self._number:06d}.test"
        path = self.folder / "mail" / "tmp" / name
        path.write_bytes(raw)
        self._own(path)
        path.rename(self.folder / "mail" / "new" / name)

    def sent(self) -> list[EmailMessage]:
        """The mails in the folder of sent mail."""
        files = sorted((self.folder / "mail" / ".Sent").glob("*/*.*"))
        return [_parsed(path.read_bytes()) for path in files if path.parent.name in ("cur", "new")]

    def put_into_sent(self, raw: bytes) -> None:
        """As servers do that keep what they sent."""
        folder = self.folder / "mail" / ".Sent"
        for name in ("new", "cur", "tmp"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self._own()
        self._number += 1
        path = folder / "new" / f"{time.time():.6f}.{self._number:06d}.server"
        path.write_bytes(raw)
        self._own(path)

    def unseen(self) -> int:
        """Mails that nobody has read."""
        here = [path for name in ("new", "cur") for path in (self.folder / "mail" / name).iterdir()]
        return sum("S" not in path.name.partition(":2,")[2] for path in here)

    def _own(self, path: Path | None = None) -> None:
        mail, home = self.folder / "mail", self.folder / "home"
        if os.getuid() == 0:
            for each in [path] if path else [mail, *mail.rglob("*"), home]:
                os.chown(each, 8, 8)


def _parsed(raw: bytes) -> EmailMessage:
    message = BytesParser(policy=default).parsebytes(raw)
    assert isinstance(message, EmailMessage)
    return message


class MailSink:
    """The SMTP server, on TLS, in the test's own loop."""

    def __init__(self, authority: Authority, dovecot: Dovecot) -> None:
        self.port = free_port()
        #: In the order of arrival.
        self.taken: list[EmailMessage] = []
        #: What the next recipients are told ("451 later", "550 no"), what the next mails are told after they came, and
        #: how often it goes away after it took a mail and before it says so.
        self.at_rcpt: list[str] = []
        self.after_data: list[str] = []
        self.vanishes = 0
        #: It puts what it took into the folder of sent mail itself.
        self.keeps_sent = False
        self.chance: random.Random | None = None
        self._authority = authority
        self._dovecot = dovecot
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.get_running_loop().create_server(
            self._smtp, "127.0.0.1", self.port, ssl=self._authority.server()
        )

    def _smtp(self) -> SMTP:
        with warnings.catch_warnings():
            # It warns of passwords without TLS; here TLS is there from the start.
            warnings.simplefilter("ignore")
            return SMTP(
                self, authenticator=self._login, auth_required=True, auth_require_tls=False, enable_SMTPUTF8=True,
                hostname="localhost", data_size_limit=64 << 20,
            )

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def texts(self, to: str) -> list[str]:
        """The plain text of the mails to somebody."""
        found = []
        for mail in self.taken:
            if mail["To"] == to and (body := mail.get_body(("plain",))) is not None:
                found.append(str(body.get_content()).strip().replace("\r\n", "\n"))
        return found

    async def handle_RCPT(
        self, server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if self.at_rcpt:
            return self.at_rcpt.pop(0)
        if self.chance and self.chance.random() < 0.05:
            return "451 4.7.1 greylisted"
        if self.chance and self.chance.random() < 0.05:
            _abort(server)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:
        if self.after_data:
            return self.after_data.pop(0)
        raw = envelope.content
        assert isinstance(raw, bytes)
        self.taken.append(_parsed(raw))
        if self.keeps_sent:
            self._dovecot.put_into_sent(raw)
        if self.vanishes or (self.chance and self.chance.random() < 0.03):
            self.vanishes = max(self.vanishes - 1, 0)
            _abort(server)
        return "250 OK"

    def _login(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: object
    ) -> AuthResult:
        good = getattr(data, "password", b"") == PASSWORD.encode()
        return AuthResult(success=good, handled=False)


def _abort(server: SMTP) -> None:
    if server.transport is not None:
        server.transport.abort()
