"""A reply as a mail. Pure."""

from __future__ import annotations

from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime

from markdown_it import MarkdownIt

from microclaw.channel.plain_text import plain_text
from microclaw.email.reading import bare_subject
from microclaw.email.threads import Thread

#: HTML in what an agent writes is text, not markup.
_HTML = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
SUBJECT_CHARS_MAX = 200


def message_id_of(key: str, address: str) -> str:
    """The id of a part, the same at every try: the key under which it is known again."""
    return f"{key}.microclaw@{address.rpartition('@')[2]}"


def written(
    *, key: str, address: str, name: str, thread: Thread, text: str, sent: datetime, reply_to: str = "",
    file: tuple[str, str, bytes] | None = None,
) -> bytes:
    """The mail's bytes. `reply_to`: the mail that it answers ("" = the thread's last); `file`: name, MIME, content."""
    mail = EmailMessage(policy=SMTP)
    shown = _line(name).replace("\\", "")  # which would take away the quotation mark behind it
    mail["From"] = f'"{shown}" <{address}>' if shown else address
    mail["To"] = thread.address
    subject = bare_subject(_line(thread.subject))
    first_line = _line(plain_text(text).strip().split("\n")[0]) if text else ""
    mail["Subject"] = (f"Re: {subject}" if thread.ids else subject or first_line or "A message")[:SUBJECT_CHARS_MAX]
    mail["Date"] = format_datetime(sent)
    mail["Message-ID"] = f"<{message_id_of(key, address)}>"
    answered = reply_to or (thread.ids[-1] if thread.ids else "")
    if answered:
        mail["In-Reply-To"] = f"<{answered}>"
        ids = [*(each for each in thread.ids if each != answered), answered]
        mail["References"] = " ".join(f"<{each}>" for each in ids)
    # So that no other program answers it (RFC 3834, section 5), another one of us included.
    mail["Auto-Submitted"] = "auto-replied" if answered else "auto-generated"
    mail.set_content(f"{plain_text(text)}\n" if text else "\n")
    if text:
        mail.add_alternative(f"<html><body>\n{_HTML.render(text)}</body></html>\n", subtype="html")
    if file is not None:
        kind, _, subtype = file[1].partition("/")
        mail.add_attachment(
            file[2], maintype=kind or "application", subtype=subtype or "octet-stream", filename=_line(file[0])
        )
    return mail.as_bytes()


def _line(text: str) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in text).replace('"', "'").split())
