"""Files of messages, fetched from Discord and kept by handle."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import aiohttp
from hikari.errors import ClientHTTPResponseError, HikariError
from hikari.messages import Attachment as DiscordFile

from microclaw.channel.media import Media, Skipped, safe_name
from microclaw.core.kinds import Attachment

log = logging.getLogger("microclaw.channels")

#: One try, at most, seconds; and how often, with a pause between, seconds.
FETCH_S_MAX = 60.0
TRIES = 3
PAUSE_S = 1.0


async def fetch_files(media: Media, files: Sequence[DiscordFile]) -> tuple[list[Attachment], list[str]]:
    """The files that could be had, and a line for each that could not: a message never waits for ever for its file."""
    kept: list[Attachment] = []
    notes: list[str] = []
    for file in files:
        taken = await _take(media, file)
        if isinstance(taken, Skipped):
            notes.append(taken.text)
        else:
            kept.append(taken)
    return kept, notes


async def _take(media: Media, file: DiscordFile) -> Attachment | Skipped:
    async def fetch(bytes_max: int) -> bytes:
        data = bytearray()
        async with asyncio.timeout(FETCH_S_MAX), file.stream() as stream:
            async for chunk in stream:
                data += chunk
                if len(data) > bytes_max:
                    break
        return bytes(data[: bytes_max + 1])

    for left in reversed(range(TRIES)):
        try:
            return await media.take(file.filename, file.size, fetch)
        except (HikariError, aiohttp.ClientError, TimeoutError, OSError) as error:
            log.warning("file not fetched", extra={"file": file.id, "why": f"{type(error).__name__}: {error}"})
            if isinstance(error, ClientHTTPResponseError):
                # Deleted meanwhile: it won't come back.
                break
            if left:
                await asyncio.sleep(PAUSE_S)
    return Skipped(f"[file {safe_name(file.filename)}: could not be fetched from Discord]")
