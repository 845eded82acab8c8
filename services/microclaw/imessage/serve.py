"""The iMessage connector's wiring."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from microclaw.bus.service import Service
from microclaw.channel.link import LoggedOut, Unreachable
from microclaw.channel.open import Channel, open_channel
from microclaw.core.channel_settings import Imessage
from microclaw.imessage.database import CantRead, OtherSchema, opened
from microclaw.imessage.inbound import Inbound
from microclaw.imessage.outbound import Outbound
from microclaw.imessage.script import Osascript

#: Where Messages itself keeps files: it may read there.
_OUTBOX = "~/Library/Messages/Attachments/microclaw"
#: How often marks of old tries are dropped, seconds.
FORGET_S = 3600.0

#: How often it is seen whether the database was written to, seconds: two calls of the kernel, where a look is a dozen
#: queries.
GLANCE_S = 0.1

NO_ACCESS = (
    "macOS does not let MicroClaw read your messages: give Full Disk Access to the program that starts it (System "
    "Settings → Privacy & Security → Full Disk Access), then `microclaw restart imessage`"
)


def database_path(settings: Imessage) -> Path:
    """Messages' database."""
    return Path(settings.database or "~/Library/Messages/chat.db").expanduser().absolute()


def outbox_path(settings: Imessage) -> Path:
    """The folder for files on their way out."""
    return Path(settings.outbox or _OUTBOX).expanduser()


async def serve(service: Service) -> None:
    """The connector's life."""
    settings = service.settings.channels.imessage
    path = database_path(settings)
    async with open_channel(service) as channel:
        osascript = Osascript(settings.osascript, service.home.run / "osascript.lock")
        outbound = Outbound(channel, path, osascript, outbox_path(settings))
        inbound = Inbound(channel, path, outbound.is_ours)

        async def connect() -> None:
            await _follow(channel, inbound, outbound, path, settings.poll_ms / 1000)

        async def group_names() -> dict[str, str | None]:
            return {f"imessage:{chat}": name for chat, name in (await asyncio.to_thread(_group_names, path)).items()}

        await channel.run(outbound, connect, group_names=group_names)


def _group_names(path: Path) -> dict[str, str]:
    with opened(path) as database:
        return database.group_names()


async def _follow(channel: Channel, inbound: Inbound, outbound: Outbound, path: Path, poll_s: float) -> None:
    """Look for new rows for ever: when the database was written to, and every `poll_s`. That a look succeeded is the
    evidence that we are connected."""
    loop = asyncio.get_running_loop()
    forget_at = loop.time()
    try:
        while True:
            before = _written_at(path)
            await inbound.look()
            if channel.link.state != "connected":
                channel.link.connected("this Mac")
            channel.link.event()
            if loop.time() >= forget_at:
                outbound.forget()
                forget_at = loop.time() + FORGET_S
            await _written(path, before, poll_s)
    except CantRead as error:
        if error.denied:
            raise LoggedOut(NO_ACCESS) from error
        raise Unreachable(str(error)) from error
    except OtherSchema as error:
        raise LoggedOut(str(error)) from error


async def _written(path: Path, before: tuple[int, ...], seconds: float) -> None:
    """Wait until the database was written to since `before`, so long at most."""
    until = time.monotonic() + seconds
    # Another program's files: nobody sets an event.
    while (left_s := until - time.monotonic()) > 0 and _written_at(path) == before:  # noqa: ASYNC110
        await asyncio.sleep(min(left_s, GLANCE_S))


def _written_at(path: Path) -> tuple[int, ...]:
    """When the database and its journal were last written to, by the file system; 0 = not there, or not for us."""
    times = []
    for file in (path, path.with_name(f"{path.name}-wal")):
        try:
            times.append(file.stat().st_mtime_ns)
        except OSError:
            times.append(0)
    return tuple(times)
