"""The four platforms at once, each with one person who writes in one chat: for whatever runs all connectors together.

    async with Platforms(folder) as platforms:
        for each in platforms:
            each.says("hello")
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from types import TracebackType
from typing import Protocol

from tests.contract.egress.authority import make_authority
from tests.fakes import discord_world
from tests.fakes.discord_server import DiscordServer
from tests.fakes.mail_servers import ADDRESS, PASSWORD, Dovecot, MailSink
from tests.fakes.messages_app import MessagesApp
from tests.fakes.telegram_server import ANN, TelegramServer

OSASCRIPT = Path(__file__).with_name("osascript")
SERVER = "mx.example.org"


class Platform(Protocol):
    """One of them."""

    #: The connector's name.
    name: str
    #: Who writes, as the router calls them.
    sender: str
    #: Address of the chat.
    chat: str
    #: The connector's secret, "" = it has none.
    secret: str

    def settings(self) -> dict[str, str]:
        """What its table of the configuration file needs."""
        ...

    async def start(self) -> None:
        """Also after `stop`: nothing that was there is gone."""
        ...

    async def stop(self) -> None:
        """Nobody reaches it any more."""
        ...

    def says(self, text: str, file: bytes = b"", name: str = "") -> None:
        """The person writes, with a file if there is one."""
        ...

    def texts(self) -> list[str]:
        """What arrived in the chat, in order."""
        ...

    def texts_elsewhere(self) -> list[str]:
        """What arrived in any other chat of it."""
        ...


class Telegram:
    name, sender, chat = "telegram", f"telegram:{ANN['id']}", f"telegram:{ANN['id']}"

    def __init__(self) -> None:
        self.server = TelegramServer()
        self.secret = self.server.token

    def settings(self) -> dict[str, str]:
        return {"api_url": self.server.url}

    async def start(self) -> None:
        await self.server.start()

    async def stop(self) -> None:
        await self.server.stop()

    def says(self, text: str, file: bytes = b"", name: str = "") -> None:
        if not file:
            self.server.says(text)
            return
        self.server.files[name] = file
        self.server.says(
            "", caption=text, document={"file_id": name, "file_unique_id": name, "file_name": name,
                                        "file_size": len(file)},
        )

    def texts(self) -> list[str]:
        return self.server.texts(7)

    def texts_elsewhere(self) -> list[str]:
        return [each.text for each in self.server.sent if each.chat_id != 7]


class Discord:
    name, sender, chat = "discord", f"discord:{discord_world.ANN}", f"discord:{discord_world.DM}"
    secret = discord_world.TOKEN

    def __init__(self) -> None:
        self.server = DiscordServer()

    def settings(self) -> dict[str, str]:
        return {"api_url": self.server.url}

    async def start(self) -> None:
        await self.server.start()

    async def stop(self) -> None:
        await self.server.stop()

    def says(self, text: str, file: bytes = b"", name: str = "") -> None:
        files = [self.server.attachment(name, file)] if file else []
        self.server.says(discord_world.DM, text, attachments=files)

    def texts(self) -> list[str]:
        return self.server.texts(discord_world.DM)

    def texts_elsewhere(self) -> list[str]:
        return [text for _nonce, channel, text in self.server.sent if channel != discord_world.DM]


class Email:
    name, person, secret = "email", "ann@friends.example", PASSWORD
    sender = f"email:{person}"

    def __init__(self, folder: Path) -> None:
        authority = make_authority(folder, ("localhost",))
        self._ca = authority.ca
        self.imap = Dovecot(folder, authority)
        self.smtp = MailSink(authority, self.imap)
        self._numbers = itertools.count(1)
        #: Known when the first mail was heard: a thread is a chat.
        self.chat = ""

    def settings(self) -> dict[str, str]:
        return {
            "address": ADDRESS, "imap_host": "localhost", "imap_port": str(self.imap.port), "smtp_host": "localhost",
            "smtp_port": str(self.smtp.port), "ca_file": str(self._ca), "poll_s": "5", "authserv_id": SERVER,
        }

    async def start(self) -> None:
        await asyncio.to_thread(self.imap.start)
        await self.smtp.start()

    async def stop(self) -> None:
        await self.smtp.stop()
        await asyncio.to_thread(self.imap.stop)

    def says(self, text: str, file: bytes = b"", name: str = "") -> None:
        mail = EmailMessage()
        mail["Authentication-Results"] = f"{SERVER}; dmarc=pass header.from=friends.example"
        mail["From"], mail["To"], mail["Subject"] = f"Ann <{self.person}>", ADDRESS, "Plans"
        mail["Message-ID"] = f"<{next(self._numbers)}@friends.example>"
        mail["Date"] = "Mon, 03 Nov 2025 10:00:00 +0100"
        mail["References"] = "<root@friends.example>"
        mail.set_content(text)
        if file:
            mail.add_attachment(file, maintype="application", subtype="octet-stream", filename=name)
        self.imap.arrives(mail.as_bytes())

    def texts(self) -> list[str]:
        return self.smtp.texts(self.person)

    def texts_elsewhere(self) -> list[str]:
        return [str(mail["To"]) for mail in self.smtp.taken if mail["To"] != self.person]


class Imessage:
    name, secret, person, other = "imessage", "", "+491701", "+491702"
    sender = chat = f"imessage:{person}"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.app = MessagesApp(folder / "chat.db")
        for address in (self.person, self.other):
            self.app.chat(address)

    def settings(self) -> dict[str, str]:
        return {
            "database": str(self.app.path), "osascript": str(OSASCRIPT), "poll_ms": "100",
            "outbox": str(self._folder / "outbox"),
        }

    async def start(self) -> None:
        """It is a file."""

    async def stop(self) -> None:
        """It is a file."""

    def says(self, text: str, file: bytes = b"", name: str = "") -> None:
        if not file:
            self.app.says(self.person, text)
            return
        path = self._folder / name
        path.write_bytes(file)
        # Messages writes the row first, then its file, then puts it into its chat.
        guid = self.app.says(self.person, f"{text}\ufffc", cache_has_attachments=1, joined=False)
        self.app.attach(guid, path)
        self.app.join(self.person, guid)

    def texts(self) -> list[str]:
        return self.app.sent(self.person)

    def texts_elsewhere(self) -> list[str]:
        return self.app.sent(self.other)


class Platforms:
    """All of them, running inside the context. `folder` must be one that another user may look into (Dovecot's)."""

    def __init__(self, folder: Path) -> None:
        for name in ("mail", "messages"):
            (folder / name).mkdir(mode=0o755)
        self.telegram, self.discord = Telegram(), Discord()
        self.email, self.imessage = Email(folder / "mail"), Imessage(folder / "messages")
        self.env = {"MC_FAKE_CHAT_DB": str(self.imessage.app.path)}

    def __iter__(self) -> Iterator[Platform]:
        yield from (self.telegram, self.discord, self.email, self.imessage)

    async def __aenter__(self) -> Platforms:
        for each in self:
            await each.start()
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for each in self:
            await each.stop()
