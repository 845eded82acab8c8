"""The connector to a mailbox: IMAP in, SMTP out.

Read `inbound.py` (what comes), `reading.py` (what a mail says, pure), `trust.py` (whether its From is believed, pure),
then `outbound.py` (what goes) and `threads.py` (which chat a mail belongs to); `imap.py` and `smtp.py` talk to servers.
"""
