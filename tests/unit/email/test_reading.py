"""What a mail says, whatever it is made of."""

from __future__ import annotations

import time
from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microclaw.email.reading import Unreadable, bare_subject, read_mail
from microclaw.email.threads import Thread
from microclaw.email.writing import message_id_of, written

_NOON_MS = 1_700_000_000_000


def raw(body: str, *, html: bool = False, **headers: str) -> bytes:
    mail = EmailMessage()
    for name, value in ({"From": "Ann <Ann@Example.org>", "Message-ID": "<1@a>"} | headers).items():
        mail[name.replace("_", "-")] = value
    mail.set_content(body, subtype="html" if html else "plain")
    return mail.as_bytes()


@pytest.mark.parametrize(
    ("body", "new"),
    [
        ("Yes.\n\nOn Mon, 3 Nov 2025 at 09:00, Bot <bot@e.org> wrote:\n> Do you?\n", "Yes."),
        ("Ja.\n\nAm 03.11.2025 um 09:00 schrieb Bot <bot@e.org>:\n> Kommst du?\n", "Ja."),
        ("> Do you?\n", "> Do you?"),
        ("One\n\nTwo", "One\n\nTwo"),
    ],
)
def test_the_new_text_is_what_was_written_now(body: str, new: str) -> None:
    assert read_mail(raw(body), _NOON_MS).text == new


def test_a_page_is_read_as_a_person_reads_it() -> None:
    mail = read_mail(raw("<p>See <a href='https://e.org'>this</a></p><span hidden>obey</span>", html=True), _NOON_MS)
    assert mail.text == "See [https://e.org] this"


def test_who_when_and_in_which_thread() -> None:
    mail = read_mail(
        raw("x", In_Reply_To="<3@a>", References="<1@a> <2@a> <3@a>", Date="Mon, 03 Nov 2025 10:00:00 +0100",
            To="bot@e.org", Cc="bob@e.org, carl@e.org"), _NOON_MS,
    )
    assert (mail.sender, mail.sender_name, mail.message_id) == ("ann@example.org", "Ann", "1@a")
    assert (mail.answers, mail.sent_ms, mail.others) == (("3@a", "2@a", "1@a"), 1_762_160_400_000, 2)


@pytest.mark.parametrize("date", ["", "yesterday", "Mon, 99 Nov 2025 10:00:00", "Mon, 03 Nov 1955 10:00:00 +0000"])
def test_a_mail_without_a_usable_date_has_the_time_of_its_arrival(date: str) -> None:
    assert read_mail(raw("x", Date=date) if date else raw("x"), _NOON_MS).sent_ms == _NOON_MS


@pytest.mark.parametrize("sender", ["Ann <a@e.org>, Eve <e@e.org>", "nobody", "undisclosed:;"])
def test_a_from_that_names_not_exactly_one_address_is_nobodys(sender: str) -> None:
    assert read_mail(f"From: {sender}\r\nMessage-ID: <1@a>\r\n\r\nx".encode(), _NOON_MS).sender == ""


def test_a_notice_of_failure_names_the_mail_that_did_not_arrive() -> None:
    report = (
        b"From: mailer-daemon@e.org\r\nContent-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n"
        b"--b\r\n\r\nsorry\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\nFinal-Recipient: rfc822; a@b\r\n"
        b"--b\r\nContent-Type: text/rfc822-headers\r\n\r\nSubject: x\r\nMessage-ID: <77@us>\r\n--b--\r\n"
    )
    mail = read_mail(report, _NOON_MS)
    assert mail.failed_id == "77@us" and mail.robot


@given(st.binary(max_size=400))
def test_any_bytes_are_a_mail_of_some_kind(data: bytes) -> None:
    read_mail(b"From: a@e.org\r\nContent-Type: text/plain; charset=x\r\n" + data, _NOON_MS)


@pytest.mark.parametrize("headers", [
    b"From: " + b"(" * 5_000 + b"a@e.org\r\n",
    b"From: a@e.org\r\nContent-Type: text/plain; name*=u\0''%41\r\nContent-Disposition: attachment\r\n",
])
def test_a_mail_that_is_made_to_be_read_by_nobody_is_said_to_be_so(headers: bytes) -> None:
    with pytest.raises(Unreadable):
        read_mail(headers + b"\r\nx", _NOON_MS)


@pytest.mark.parametrize("line", ["\n", "Am schrieb ", " \n", "> a\n", "On "])
def test_a_mail_that_is_made_to_be_read_for_ever_is_not(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What tells a history from a new text took hours for a few kilobytes of these."""
    monkeypatch.setattr("microclaw.email.reading.HISTORY_S_MAX", 0.2)
    began = time.monotonic()
    mail = read_mail(raw("Yes\n" + line * 5_000), _NOON_MS)
    assert mail.text.startswith("Yes") and time.monotonic() - began < 10


def test_a_mail_whose_headers_take_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("microclaw.email.reading.PARSE_S_MAX", 0.1)
    with pytest.raises(Unreadable, match="not done within"):
        read_mail(b"From: a@e.org\r\nSubject: " + b"=?utf-8?q?a?= " * 20_000 + b"\r\n\r\nx", _NOON_MS)


@pytest.mark.parametrize(
    ("subject", "bare"), [("Re: AW: Plans", "Plans"), ("re[2]: x", "x"), ("Reply", "Reply"), ("Re:", "")]
)
def test_the_bare_subject(subject: str, bare: str) -> None:
    assert bare_subject(subject) == bare


@given(st.text(max_size=300), st.text(max_size=60), st.text(max_size=60))
def test_whatever_is_answered_is_a_mail_that_can_be_read_and_has_no_header_of_the_texts_making(
    text: str, subject: str, name: str
) -> None:
    from datetime import UTC, datetime

    data = written(
        key="ab-0", address="bot@e.org", name=name, thread=Thread("ann@e.org", subject, ("1@a",)), text=text,
        sent=datetime(2025, 1, 1, tzinfo=UTC),
    )
    mail = read_mail(data, _NOON_MS)
    assert mail.message_id == message_id_of("ab-0", "bot@e.org")
    assert mail.answers == ("1@a",)
    assert mail.sender == "bot@e.org"
    assert "sent by a program" in mail.robot
