"""Being told of new mail: not missed when it comes in the very moment in which we begin to wait."""

from __future__ import annotations

import asyncio
import random
import tempfile
import threading
from pathlib import Path

from tests.contract.egress.authority import make_authority
from tests.fakes.mail_servers import ADDRESS, PASSWORD, Dovecot

from microclaw.core.channel_settings import Email
from microclaw.email.imap import Session

ROUNDS = 12
#: Dovecot tells within half a second; what is missed is found when IDLE is renewed, minutes later.
DEADLINE_S = 60


async def test_mail_that_comes_while_idle_begins_is_heard_of() -> None:
    """Its notice may come in one piece with the server's "go on": it lies in the reader's buffer then."""
    with tempfile.TemporaryDirectory(prefix="mc-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        authority = make_authority(folder, ("localhost",))
        imap = Dovecot(folder, authority)
        imap.start()
        session = Session()
        try:
            settings = Email(
                enabled=True, address=ADDRESS, imap_host="localhost", imap_port=imap.port, ca_file=str(authority.ca)
            )
            async with asyncio.timeout(DEADLINE_S):
                await asyncio.to_thread(_hear, session, settings, imap, random.Random(1))
        finally:
            session.cut()
            imap.stop()


def _hear(session: Session, settings: Email, imap: Dovecot, chance: random.Random) -> None:
    with session.open(settings, PASSWORD, "INBOX") as mailbox:
        uid = mailbox.uidnext - 1
        for number in range(ROUNDS):
            mail = b"From: a@b\r\nMessage-ID: <%d@x>\r\n\r\nx" % number
            threading.Timer(chance.random() * 0.02, imap.arrives, [mail]).start()
            while not (found := mailbox.new_since(uid)):
                mailbox.wait(5)
            uid = found[-1].uid
