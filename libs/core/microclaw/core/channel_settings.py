"""The connectors' tables of the configuration file (`core.settings`)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Literal

from msgspec import Meta

from microclaw.core.settings_section import Section

#: Connectors to the world outside, by the name of their service; the console is always there.
CONNECTORS = ("telegram", "discord", "email", "imessage")
#: What is wrong with a server's address.
NOT_A_URL = "must be http(s)://host[:port][/path], without user and password"

_URL = re.compile(r"https?://[^\s/@?#]+(/[^\s?#]*)?\Z")


def is_url(text: str) -> bool:
    """Whether this names a server."""
    return bool(_URL.match(text))


class Channel(Section, frozen=True, kw_only=True):
    """What all connectors have."""

    enabled: Annotated[bool, Meta(description="Start this connector with MicroClaw.")] = False


class Telegram(Channel, frozen=True, kw_only=True):
    """A bot on Telegram."""

    token: Annotated[str, Meta(description="Name of the secret that holds the bot's token.")] = "telegram"
    api_url: Annotated[
        str, Meta(description='A Bot API server of your own (http:// or https://); "" = Telegram\'s.')
    ] = ""


class Discord(Channel, frozen=True, kw_only=True):
    """A bot on Discord."""

    token: Annotated[str, Meta(description="Name of the secret that holds the bot's token.")] = "discord"
    api_url: Annotated[str, Meta(description='Another REST server (tests); "" = Discord\'s.')] = ""


_Port = Annotated[int, Meta(ge=1, le=65535)]


class Email(Channel, frozen=True, kw_only=True):
    """A mailbox."""

    address: Annotated[str, Meta(max_length=254, description="The assistant's own address.")] = ""
    user: Annotated[str, Meta(max_length=254, description='Name to log in with; "" = the address.')] = ""
    password: Annotated[str, Meta(description="Name of the secret that holds the password.")] = "email"
    imap_host: Annotated[str, Meta(max_length=253, description="The IMAP server.")] = ""
    imap_port: Annotated[_Port, Meta(description="993 = TLS from the start.")] = 993
    imap_security: Annotated[
        Literal["tls", "starttls"], Meta(description="How the connection is encrypted; there is no other way.")
    ] = "tls"
    smtp_host: Annotated[str, Meta(max_length=253, description='The SMTP server; "" = the IMAP server.')] = ""
    smtp_port: Annotated[_Port, Meta(description="465 = TLS from the start, 587 = STARTTLS.")] = 465
    smtp_security: Annotated[
        Literal["tls", "starttls"], Meta(description="How the connection is encrypted; there is no other way.")
    ] = "tls"
    ca_file: Annotated[
        str, Meta(max_length=500, description='Certificates (PEM) to trust instead of the system\'s; "" = those.')
    ] = ""
    mailbox: Annotated[str, Meta(min_length=1, max_length=200, description="The folder that is watched.")] = "INBOX"
    sent_mailbox: Annotated[
        str, Meta(max_length=200, description='The folder of sent mail; "" = the one that the server marks so.')
    ] = ""
    poll_s: Annotated[
        int, Meta(ge=5, le=3600, description="How often to look where the server can't tell of new mail, seconds.")
    ] = 60
    authserv_id: Annotated[
        str,
        Meta(
            max_length=253,
            description='The name that your mail server gives itself in Authentication-Results; "" = nobody\'s From is '
                        'believed.',
        ),
    ] = ""


class Imessage(Channel, frozen=True, kw_only=True):
    """Messages on this Mac."""

    database: Annotated[
        str, Meta(max_length=500, description='Messages\' database; "" = ~/Library/Messages/chat.db.')
    ] = ""
    osascript: Annotated[str, Meta(max_length=500, description="The program that sends.")] = "/usr/bin/osascript"
    outbox: Annotated[
        str,
        Meta(
            max_length=500,
            description='Files to be sent are put there; "" = a folder beside Messages\' own, which it may read.',
        ),
    ] = ""
    poll_ms: Annotated[
        int, Meta(ge=100, le=60_000, description="How often to look for new messages at least, milliseconds.")
    ] = 500


class Channels(Section, frozen=True, kw_only=True):
    """The chats it lives in."""

    media_max_mb: Annotated[
        int, Meta(ge=0, le=64, description="Larger files are named to the agent and not fetched, MiB.")
    ] = 20
    late_after_min: Annotated[
        int, Meta(ge=1, le=10_080, description="A reply that could not be sent for so long says so, minutes.")
    ] = 60
    expire_after_h: Annotated[
        int, Meta(ge=1, le=720, description="A reply that could not be sent for so long never is, hours; you are told.")
    ] = 24
    telegram: Telegram = Telegram()
    discord: Discord = Discord()
    email: Email = Email()
    imessage: Imessage = Imessage()

    def enabled(self) -> tuple[str, ...]:
        """The names of the connectors that start with MicroClaw."""
        return tuple(name for name in CONNECTORS if getattr(self, name).enabled)


def channels_problem(
    channels: Channels, *, is_secret_name: Callable[[str], bool]
) -> tuple[tuple[str, ...], str] | None:
    """What the types can't say: the path of a bad key below `channels`, and what is wrong; None = nothing."""
    secrets = {
        ("telegram", "token"): channels.telegram.token, ("discord", "token"): channels.discord.token,
        ("email", "password"): channels.email.password,
    }
    for path, name in secrets.items():
        if not is_secret_name(name):
            # It may be a real key: it is never repeated in the error.
            return path, "must be the name of a secret (a-z, 0-9, - and _), not its value"
    servers = {
        ("telegram", "api_url"): channels.telegram.api_url, ("discord", "api_url"): channels.discord.api_url,
    }
    for path, url in servers.items():
        if url and not is_url(url):
            return path, NOT_A_URL
    needed = {("email", "address"): channels.email.address, ("email", "imap_host"): channels.email.imap_host}
    for path, value in needed.items():
        if channels.email.enabled and not value:
            return path, "is empty, but the mailbox is enabled and needs it"
    return None
