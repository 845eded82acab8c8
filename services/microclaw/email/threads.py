"""Which chat a mail belongs to: a thread with one person is a chat.

A reply goes to that one person and to nobody else who reads the thread; another person in the same thread has a chat of
their own, so nobody's words are ever answered to somebody else.
"""

from __future__ import annotations

import hashlib

import msgspec

from microclaw.channel.notes import Notes
from microclaw.core.groups import CHAT_CHARS_MAX, native_of

#: Kinds of notes: mail id and sender → chat; chat → its thread.
_MAIL, _CHAT = "mail", "thread"
#: Stands for the sender of what we sent.
_US = "us"
#: A thread that was silent for so long is forgotten: the next mail of it begins a new chat.
KEPT_MS = 365 * 24 * 3600 * 1000
#: References that an answer names.
REFERENCES_MAX = 20


class Thread(msgspec.Struct, frozen=True):
    """What an answer needs to know."""

    address: str
    subject: str
    #: Ids of the thread's mails, oldest first.
    ids: tuple[str, ...] = ()


class Threads:
    """The threads that are remembered."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes

    def chat_of(self, sender: str, message_id: str, answers: tuple[str, ...]) -> str:
        """The chat of a mail of this sender."""
        for each in answers:
            if chat := self._notes.get(_MAIL, _key(each, sender)):
                return chat
        root = answers[-1] if answers else message_id
        digest = hashlib.blake2b(root.encode(), digest_size=6).hexdigest()
        return f"email:{sender}"[: CHAT_CHARS_MAX - 20] + f"/{digest}"

    def is_known(self, message_id: str, sender: str) -> bool:
        """Whether this mail was taken or sent before."""
        return bool(self._notes.get(_MAIL, _key(message_id, sender)))

    def is_ours(self, message_id: str) -> bool:
        """Whether we sent this mail."""
        return self.is_known(message_id, _US)

    def remember_ours(self, chat: str, message_id: str) -> None:
        """We sent this mail: who answers it is in its chat."""
        if (thread := self.of(chat)) is not None:
            self.join(chat, thread.address, thread.subject, message_id)
            self._notes.set(_MAIL, {
                _key(message_id, thread.address): chat, _key(message_id, _US): chat,
            })

    def join(self, chat: str, sender: str, subject: str, message_id: str) -> None:
        """A mail is part of a chat now: what is answered there answers it. May be said again."""
        thread = self.of(chat)
        ids = (*(thread.ids if thread else ()), message_id)[-REFERENCES_MAX:]
        now = Thread(sender, thread.subject if thread and thread.subject else subject, tuple(dict.fromkeys(ids)))
        self._notes.set(_CHAT, {chat: msgspec.json.encode(now).decode()})

    def begins(self, chat: str, message_id: str) -> bool:
        """Whether this mail is the first of its chat."""
        thread = self.of(chat)
        return thread is None or set(thread.ids) == {message_id}

    @staticmethod
    def taken(chat: str, sender: str, message_id: str) -> dict[str, dict[str, str]]:
        """The notes by which a mail that was taken is passed over when it comes again, and what answers it is in its
        chat: to be written with the cursor."""
        return {_MAIL: {_key(message_id, sender): chat}}

    def of(self, chat: str) -> Thread | None:
        """What is known of a chat; a chat that is just an address has a thread that is not begun."""
        if text := self._notes.get(_CHAT, chat):
            return msgspec.json.decode(text, type=Thread)
        address = native_of(chat)
        return Thread(address, "") if "@" in address and "/" not in address else None

    def forget(self, before_ms: int) -> None:
        """Drop threads that were silent since."""
        for kind in (_MAIL, _CHAT):
            self._notes.forget(kind, before_ms)


def _key(message_id: str, sender: str) -> str:
    return hashlib.blake2b(f"{sender}\0{message_id}".encode(), digest_size=16).hexdigest()
