"""Handing a mail to the SMTP server, so that it is known in which moment it may have been taken."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import aiosmtplib

from microclaw.channel.platform import NotSent, Rejected, Unsure
from microclaw.core.channel_settings import Email
from microclaw.email.imap import tls

ANSWER_S_MAX = 30.0
#: A server that says "later" (greylisting, mostly) is asked again after this.
LATER_S = 60.0


async def submit(settings: Email, password: str, to: str, raw: bytes, on_data: Callable[[], None]) -> None:
    """Send it to one address. `on_data` is called right before the mail itself goes: from then on it may be taken.

    :raises NotSent: it was certainly not taken. :raises Rejected: and never will be. :raises Unsure: it may be taken.
    """
    direct = settings.smtp_security == "tls"
    smtp = aiosmtplib.SMTP(
        hostname=settings.smtp_host or settings.imap_host, port=settings.smtp_port, use_tls=direct,
        start_tls=not direct, tls_context=tls(settings), timeout=ANSWER_S_MAX,
    )
    try:
        try:
            await smtp.connect()
            await smtp.login(settings.user or settings.address, password)
            await smtp.mail(settings.address, options=["SMTPUTF8"] if not to.isascii() else [])
            await smtp.rcpt(to)
        except aiosmtplib.SMTPAuthenticationError as error:
            raise NotSent(
                f"{smtp.hostname} refuses the password ({error.code}): set it with `microclaw secrets set "
                f"{settings.password}`", LATER_S, everywhere=True,
            ) from error
        except aiosmtplib.SMTPResponseException as error:
            raise _refusal(error) from error
        except (aiosmtplib.SMTPException, OSError) as error:
            raise NotSent(f"{smtp.hostname} can't be reached: {error}") from error
        on_data()
        try:
            await smtp.data(raw)
        except aiosmtplib.SMTPResponseException as error:
            # Its answer came: it did not take it.
            raise _refusal(error) from error
        except (aiosmtplib.SMTPException, OSError) as error:
            raise Unsure(f"{smtp.hostname} went away before it answered: {error}") from error
        # What it says to the farewell changes nothing.
        with suppress(aiosmtplib.SMTPException, OSError):
            await smtp.quit()
    finally:
        smtp.close()


def _refusal(error: aiosmtplib.SMTPResponseException) -> Exception:
    said = f"{error.code} {error.message}".replace("\n", " ")[:300]
    if 400 <= error.code < 500:
        return NotSent(f"the mail server says: {said}", LATER_S if error.code != 421 else None)
    return Rejected(f"the mail server says: {said}")
