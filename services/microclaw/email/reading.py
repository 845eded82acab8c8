"""What a mail says: who, when, in which thread, the new text of it. Pure, but for a bound on the time it takes: anybody
can send us anything."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email import policy
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage, MIMEPart
from email.parser import BytesParser
from email.utils import parsedate_to_datetime

from mailparser_reply import EmailReplyParser

from microclaw.core.page_text import page_text
from microclaw.email.within import TakesTooLong, within

#: Languages whose "… wrote:" is known; what follows it is the history.
LANGUAGES = ["en", "de", "fr", "it", "es", "nl", "pl", "pt", "sv", "da", "ja", "zh"]
FILES_MAX = 20
TEXT_CHARS_MAX = 100_000
#: To take a mail apart, and to find in its text what is quoted, seconds at most; ordinary ones take milliseconds.
PARSE_S_MAX = 5.0
HISTORY_S_MAX = 2.0
#: Lines without anything in a row: more say no more, and cost the search for what is quoted its time.
BLANK_LINES_MAX = 2
#: References that are looked at, from the newest; a thread can be endless.
REFERENCES_MAX = 100
_ID = re.compile(r"<([^<>\s]{1,400})>")
_FORWARDED = re.compile(r"\s*(fwd?|wg|tr|rv|i)\s*:", re.IGNORECASE)
_REPLIED = re.compile(r"\s*((re|aw|sv|antw|r|res|ref)(\[\d+\])?\s*:\s*)+", re.IGNORECASE)
_ROBOTS = re.compile(r"(mailer-daemon|postmaster|no-?reply|do-?not-?reply|bounces?([+-].*)?)@", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class MailFile:
    """A file in a mail."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail as the connector needs it. Ids are without angle brackets."""

    message_id: str
    #: Nearest first: In-Reply-To, then References from the newest.
    answers: tuple[str, ...]
    #: "" = From names nobody, or several.
    sender: str
    sender_name: str
    subject: str
    sent_ms: int
    #: The new text; what it quotes is cut.
    text: str
    files: tuple[MailFile, ...] = ()
    #: Why nobody may answer it; "" = it is a person's.
    robot: str = ""
    is_forwarded: bool = False
    #: The Authentication-Results headers, topmost first.
    results: tuple[str, ...] = field(default=(), repr=False)
    #: Who reads it besides us.
    others: int = 0
    #: Of a failure notice: the id of the mail that did not arrive.
    failed_id: str = ""


class Unreadable(Exception):
    """No parser gets through this mail, or not in time."""


def read_mail(raw: bytes, arrived_ms: int) -> Mail:
    """The mail in these bytes (RFC 5322, MIME). Single parts that can't be read are left out.

    `arrived_ms`: the server's time of arrival, for a mail without a date.

    :raises Unreadable: it is made to be read by nobody.
    """
    try:
        with within(PARSE_S_MAX):
            mail = _taken_apart(raw, arrived_ms)
    except TakesTooLong as error:
        raise Unreadable(str(error)) from error
    except (RecursionError, MessageError, ValueError, LookupError, AttributeError, TypeError) as error:
        # Its name alone: what it says may be the sender's words.
        raise Unreadable(type(error).__name__) from error
    return replace(mail, text=_new_text(mail.text))


def _taken_apart(raw: bytes, arrived_ms: int) -> Mail:
    """The mail, its text with all that it quotes."""
    message = BytesParser(policy=policy.default).parsebytes(raw)
    senders = _addresses(message, "from")
    sender = senders[0] if len(senders) == 1 else None
    subject = _header(message, "subject")
    robot, failed = robot_reason(message, sender.addr_spec if sender else ""), _failed_id(message)
    return Mail(
        message_id=next(iter(_ids(message, "message-id")), ""),
        answers=tuple(dict.fromkeys(
            [*_ids(message, "in-reply-to"), *reversed(_ids(message, "references")[-REFERENCES_MAX:])]
        )),
        sender=sender.addr_spec.casefold() if sender else "", sender_name=sender.display_name if sender else "",
        subject=subject, sent_ms=_sent_ms(message) or arrived_ms, text=_body(message),
        files=_files(message), robot=robot, is_forwarded=bool(_FORWARDED.match(subject)),
        results=tuple(str(value) for value in message.get_all("authentication-results") or ()),
        others=max(len({each.addr_spec.casefold() for each in _addresses(message, "to", "cc")}) - 1, 0),
        failed_id=failed,
    )


def bare_subject(subject: str) -> str:
    """The subject without "Re:" and its like."""
    return _REPLIED.sub("", subject, count=1).strip()


def robot_reason(message: EmailMessage, sender: str) -> str:
    """Why this mail is a program's and never to be answered (RFC 3834, section 2); "" = it is a person's."""
    if _header(message, "auto-submitted").casefold().partition(";")[0].strip() not in ("", "no"):
        return "it was sent by a program (Auto-Submitted)"
    if _header(message, "return-path").strip() == "<>" or message.get_content_type() == "multipart/report":
        return "it is a notice of a mail server"
    if _header(message, "precedence").casefold().strip() in ("bulk", "junk", "list"):
        return "it went to many (Precedence)"
    if any(name in message for name in ("list-id", "list-unsubscribe", "list-post", "feedback-id")):
        return "it went to a list"
    if "x-autoreply" in message or "x-autorespond" in message or "x-auto-response-suppress" in message:
        return "it was sent by a program"
    if _ROBOTS.match(sender):
        return f"{sender} is no person"
    return ""


def _addresses(message: EmailMessage, *names: str) -> list[Address]:
    found: list[Address] = []
    for name in names:
        try:
            for header in message.get_all(name) or ():
                found += getattr(header, "addresses", ())
        except (MessageError, ValueError, IndexError, AttributeError):
            # A header that no parser can take apart names nobody.
            continue
    return [each for each in found if each.username and each.domain]


def _header(message: EmailMessage, name: str) -> str:
    try:
        return " ".join(str(message.get(name, "")).split())
    except (MessageError, ValueError, IndexError, AttributeError):
        return ""


def _ids(message: EmailMessage, name: str) -> list[str]:
    return _ID.findall(_header(message, name))


def _sent_ms(message: EmailMessage) -> int:
    try:
        sent = parsedate_to_datetime(_header(message, "date"))
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0
    sent = sent if sent.tzinfo else sent.replace(tzinfo=UTC)
    try:
        moment = int(sent.timestamp() * 1000)
    except (OverflowError, ValueError):
        return 0
    return moment if 0 < moment < int(datetime(2100, 1, 1, tzinfo=UTC).timestamp() * 1000) else 0


def _body(message: EmailMessage) -> str:
    """Its plain text, or what a person reads of its HTML."""
    try:
        part = message.get_body(preferencelist=("plain", "html"))
    except (MessageError, ValueError, KeyError, AttributeError):
        part = None
    if part is None:
        return ""
    text = _content(part)
    return page_text(text) if part.get_content_type() == "text/html" else text


def _content(part: MIMEPart) -> str:
    raw = part.get_payload(decode=True)
    data = raw if isinstance(raw, bytes) else b""
    try:
        return data.decode(part.get_content_charset() or "utf-8")
    except (LookupError, ValueError):
        return data.decode("utf-8", errors="replace")


def _new_text(text: str) -> str:
    """What was written now, without the history that mail programs put below it."""
    text = _without_gaps(text.replace("\r\n", "\n").replace("\0", "")[:TEXT_CHARS_MAX])
    try:
        with within(HISTORY_S_MAX):
            reply = EmailReplyParser(languages=LANGUAGES).parse_reply(text) or ""
    except (TakesTooLong, RecursionError):
        reply = ""
    # A mail that is nothing but a quotation still says something.
    return (reply if reply.strip() else text).strip()


def _without_gaps(text: str) -> str:
    kept: list[str] = []
    blank = 0
    for line in text.split("\n"):
        blank = 0 if line.strip() else blank + 1
        if blank <= BLANK_LINES_MAX:
            kept.append(line)
    return "\n".join(kept)


def _files(message: EmailMessage) -> tuple[MailFile, ...]:
    found = []
    for part in message.walk():
        name = part.get_filename()
        if part.is_multipart() or not (name or part.get_content_disposition() == "attachment"):
            continue
        data = part.get_payload(decode=True)
        if isinstance(data, bytes) and data:
            found.append(MailFile(name or f"file.{part.get_content_subtype()}", data))
        if len(found) == FILES_MAX:
            break
    return tuple(found)


def _failed_id(message: EmailMessage) -> str:
    """Of a delivery status notification (RFC 3464): the id in the returned headers."""
    if message.get_content_type() != "multipart/report" or message.get_param("report-type") != "delivery-status":
        return ""
    for part in message.walk():
        if part.get_content_type() in ("message/rfc822", "text/rfc822-headers"):
            found = re.search(rb"(?mi)^message-id:\s*<([^<>\s]{1,400})>", part.as_bytes())
            if found:
                return found[1].decode("ascii", errors="replace")
    return ""
