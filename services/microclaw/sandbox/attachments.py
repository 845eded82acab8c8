"""Files that came with messages are put into the group's folder before its agent reads the messages, and files of that
folder are sent as attachments. In between they are blobs of the broker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path

from microclaw.agent.beneath import write_beneath
from microclaw.bus.api import Bus
from microclaw.bus.errors import BusError
from microclaw.core.kinds import Attachment, PromptMessage
from microclaw.core.prompt import ATTACHMENTS_FOLDER, attachment_name
from microclaw.sandbox.reading import FileRefused, read_file

#: Largest file that an agent sends, and all files that are put into a group's folder for one turn, bytes.
SENT_BYTES_MAX = 50 << 20
TURN_BYTES_MAX = 200 << 20
#: Where an agent sees its group's folder.
INSIDE = "/workspace/group/"

log = logging.getLogger("microclaw.sandbox")


async def put_into(bus: Bus, folder: Path, messages: Iterable[PromptMessage]) -> None:
    """Put the files of these messages where the prompt says they are. One that can't be had is left out: the agent
    finds it missing."""
    left = TURN_BYTES_MAX
    for file in (file for message in messages for file in message.attachments):
        name = attachment_name(file)
        left -= file.size_bytes
        if left < 0 or (folder / ATTACHMENTS_FOLDER / name).is_file():
            continue
        try:
            raw = await bus.get_blob(file.handle)
            await asyncio.to_thread(write_beneath, folder, ATTACHMENTS_FOLDER, name, raw)
        except (BusError, OSError) as error:
            log.warning("a file can't be put into the group's folder", extra={
                "group": folder.name, "handle": file.handle[:80], "why": str(error)[:200],
            })


async def take_from(bus: Bus, folder: Path, name: str) -> Attachment:
    """The file of the group's folder as an attachment, kept by the broker. :raises FileRefused: it can't be had."""
    try:
        raw = await asyncio.to_thread(read_file, folder, name.removeprefix(INSIDE), SENT_BYTES_MAX)
    except OSError as error:
        raise FileRefused(f"{name[:200]} can't be read: {error.strerror or error}") from error
    if not raw:
        raise FileRefused(f"{name[:200]} is empty")
    # Imported late: most workers never send one.
    from microclaw.channel.media import mime_of, safe_name

    shown = safe_name(name)
    try:
        handle = await bus.put_blob(raw)
    except BusError as error:
        raise FileRefused(f"the broker does not keep it: {error}") from error
    return Attachment(handle=handle, name=shown, mime=mime_of(raw, shown), size_bytes=len(raw))
