"""Chat messages and tasks as the agent reads them.

    <messages>
    <message sender="Alice" time="2024-01-01T00:00:00.000Z">hello</message>
    </messages>

Everything a person wrote is escaped, so no message can pass for two, or for somebody else's, and no template's token
of a model stands in it; what was written unseen is told (`text.visible`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import msgspec

from microclaw.core.kinds import Attachment, PromptMessage, Quote
from microclaw.core.text import visible

#: Largest prompt of one request, bytes of its JSON: a quarter of a worker's line (`worker.LINE_BYTES_MAX`).
PROMPT_BYTES_MAX = 256 * 1024
#: What the field names of one message take in a request.
_FIELDS_BYTES = 96
#: Names and quotes are cut to this in a message that is cut.
_NAME_CHARS = 100
#: Where a group's agent finds the files that came with messages, below its folder.
ATTACHMENTS_FOLDER = "attachments"
#: Of a file's own name, and of the name of its content, in the name that it has there.
_FILE_NAME_CHARS = 80
_HANDLE_CHARS = 12
#: First line of a task's prompt.
TASK_HEADER = "[SCHEDULED TASK: this was planned earlier and starts by itself; nobody has just written it]"

#: 9999-12-31: a platform's nonsense beyond it is shown as that.
_TIME_MS_MAX = 253_402_300_799_999
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True)
class Line:
    """One message with everything as text."""

    sender: str
    time: str
    text: str
    reply_to: str = ""
    quoted_sender: str = ""
    quoted_text: str = ""
    attachments: tuple[Attachment, ...] = ()


def escape(text: str) -> str:
    """The text with `& < > "` as entities; everything else stays."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


def format_line(line: Line) -> str:
    """One `<message>` element."""
    reply_to = f' reply_to="{_fenced(line.reply_to)}"' if line.reply_to else ""
    quoted = ""
    if line.quoted_text:
        source = f' from="{_fenced(line.quoted_sender)}"' if line.quoted_sender else ""
        quoted = f"\n  <quoted_message{source}>{_fenced(line.quoted_text)}</quoted_message>\n"
    files = "".join(
        f'\n  <attachment name="{_fenced(file.name)}" type="{_fenced(file.mime)}" bytes="{file.size_bytes}" '
        f'path="{ATTACHMENTS_FOLDER}/{_fenced(attachment_name(file))}" />'
        for file in line.attachments
    )
    return (
        f'<message sender="{_fenced(line.sender)}" time="{_fenced(line.time)}"{reply_to}>'
        f"{quoted}{_fenced(line.text)}{files}</message>"
    )


def attachment_name(file: Attachment) -> str:
    """What the file is called in its group's folder: by its content and its name."""
    handle = hashlib.sha256(file.handle.encode()).hexdigest()[:_HANDLE_CHARS]
    name = re.sub(r"[^\w.()-]+", "_", visible(file.name))[-_FILE_NAME_CHARS:]
    return f"{handle}-{name}" if name else handle


def _fenced(text: str) -> str:
    return escape(visible(text))


def format_lines(lines: Iterable[Line], *, timezone: str = "") -> str:
    """The `<messages>` element.

    With a time zone (IANA) it is told first, and the times are that zone's wall clock.
    """
    header = ""
    if timezone:
        zone = ZoneInfo(timezone)
        header = f'<context timezone="{escape(timezone)}" />\n'
        lines = [_local(line, zone) for line in lines]
    return f"{header}<messages>\n" + "\n".join(format_line(line) for line in lines) + "\n</messages>"


def format_messages(messages: Iterable[PromptMessage], *, timezone: str = "") -> str:
    """The prompt of these messages, in their order."""
    return format_lines((line_of(message) for message in messages), timezone=timezone)


def format_task(prompt: str) -> str:
    """The prompt of a task that is due."""
    return f"{TASK_HEADER}\n\n{prompt}"


def line_of(message: PromptMessage) -> Line:
    """The message with its time as ISO 8601 in UTC, milliseconds included."""
    quote = message.quote
    return Line(
        sender=message.sender_name,
        time=iso_utc(message.sent_ms),
        text=message.text,
        reply_to=quote.id if quote else "",
        quoted_sender=quote.sender_name if quote else "",
        quoted_text=quote.text if quote else "",
        attachments=message.attachments,
    )


def iso_utc(ms: int) -> str:
    """Unix milliseconds as `2024-01-01T00:00:00.000Z`."""
    ms = min(max(ms, 0), _TIME_MS_MAX)
    moment = datetime.fromtimestamp(ms // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ms % 1000:03d}Z"


def _local(line: Line, zone: ZoneInfo) -> Line:
    try:
        moment = datetime.fromisoformat(line.time)
    except ValueError:
        return line
    if moment.tzinfo is None:
        return line
    moment = moment.astimezone(zone)
    half = "AM" if moment.hour < 12 else "PM"
    said = (
        f"{_MONTHS[moment.month - 1]} {moment.day}, {moment.year}, "
        f"{moment.hour % 12 or 12}:{moment.minute:02d} {half}"
    )
    return replace(line, time=said)


# --- how much fits ---


def prompt_bytes(message: PromptMessage) -> int:
    """What a message adds to a request and its prompt, at most, in bytes."""
    told = len(msgspec.json.encode(format_line(line_of(message))))
    # What was written unseen takes more room in the request than in the prompt.
    return max(told + len(message.id.encode()), len(msgspec.msgpack.encode(message))) + _FIELDS_BYTES


def split(messages: Iterable[PromptMessage], bytes_max: int = PROMPT_BYTES_MAX) -> list[list[PromptMessage]]:
    """The messages in their order, in as few runs as fit `bytes_max` each; one too big alone is cut."""
    parts: list[list[PromptMessage]] = []
    size = 0
    for message in messages:
        length = prompt_bytes(message)
        if length > bytes_max:
            message = clip(message, bytes_max)
            length = prompt_bytes(message)
        if not parts or size + length > bytes_max:
            parts.append([])
            size = 0
        parts[-1].append(message)
        size += length
    return parts


def clip(message: PromptMessage, bytes_max: int) -> PromptMessage:
    """The message cut so that `prompt_bytes` is at most `bytes_max` (4 KiB or more), telling that it is."""
    quote = message.quote
    if quote is not None:
        quote = Quote(
            id=quote.id[:_NAME_CHARS], sender_name=quote.sender_name[:_NAME_CHARS], text=quote.text[:_NAME_CHARS]
        )
    short = msgspec.structs.replace(message, sender_name=message.sender_name[:_NAME_CHARS], quote=quote)
    if prompt_bytes(_cut(short, 0)) > bytes_max:
        short = msgspec.structs.replace(short, attachments=(), quote=None)
    fits, too_long = 0, len(message.text) + 1
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if prompt_bytes(_cut(short, middle)) <= bytes_max:
            fits = middle
        else:
            too_long = middle
    return _cut(short, fits)


def _cut(message: PromptMessage, length: int) -> PromptMessage:
    missing = len(message.text) - length
    note = f"\n[cut here: {missing} more characters]" if missing > 0 else ""
    return msgspec.structs.replace(message, text=message.text[:length] + note)
