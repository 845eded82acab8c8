"""What is asked of the router: groups, chats, messages."""

from __future__ import annotations

import msgspec

from microclaw.core.container import Container
from microclaw.core.kinds import MessageReceived
from microclaw.core.requests.asking import Request


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """A registered chat."""

    chat: str
    folder: str
    name: str
    trigger: str = ""
    requires_trigger: bool = True
    is_main: bool = False
    added_ms: int = 0
    container: Container = Container()
    #: Direct chats of its people that joined it, besides `chat`.
    joined: tuple[str, ...] = ()


class GroupsAsked(Request, frozen=True, kw_only=True, tag="groups.list"):
    """To the router: the registered groups, and the chats that could be."""


class KnownChat(msgspec.Struct, frozen=True, kw_only=True):
    chat: str
    name: str
    #: Of a stranger's too, who waits outside.
    last_message_ms: int
    is_group: bool
    registered: bool
    #: Somebody who may speak there did: what is held at the door does not count, nor what we said ourselves.
    is_heard: bool = False


class Groups(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="groups.list.answer"):
    groups: tuple[Group, ...]
    chats: tuple[KnownChat, ...] = ()
    #: Where the owner is told things: of the main group's chats the one that was last heard of; "" = there is none.
    owner_chat: str = ""


class RegisterGroup(Request, frozen=True, kw_only=True, tag="groups.register"):
    """To the router: register a chat. Same chat again = update; a taken folder is refused. Answer: Group or Failed."""

    command_id: str
    chat: str
    folder: str
    name: str
    trigger: str = ""
    requires_trigger: bool = True
    #: None = as it was. From the owner only.
    container: Container | None = None


class ImportMessages(Request, frozen=True, kw_only=True, tag="messages.import"):
    """To the router, from the owner: messages of another installation's history, in the order in which they came.

    Nobody is woken. Those of registered chats are kept, once by chat and platform id, and count as read by the agent
    if `is_read`. Answer: Imported or Failed.
    """

    messages: tuple[MessageReceived, ...]
    is_read: bool = True


class Imported(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="messages.import.answer"):
    #: Kept now, known before, and of chats that are not registered (only the chat is noted).
    added: int
    known: int
    elsewhere: int


class SearchMessages(Request, frozen=True, kw_only=True, tag="messages.search"):
    """To the router: past messages that hold all of these words, the newest first. Answer: FoundMessages or Failed.

    `viewer` is the group that asks, "" = the owner: a group finds what was written in its own chat, main and the owner
    what was written in any.
    """

    #: Words, and phrases in double quotes (`core.search.read_query`).
    query: str
    viewer: str = ""
    viewer_is_main: bool = False
    #: In this chat alone; "" = in all that may be seen.
    chat: str = ""
    #: Only messages before this number (`FoundMessages.more_before`); 0 = from the newest on.
    before: int = 0
    limit: int = 20


class AwaitAnswer(Request, frozen=True, kw_only=True, tag="messages.await"):
    """To the router, from the sandbox: the group's agent is about to ask its chat something; the next message there
    wakes it without calling it by name. Answer: Done or Failed."""

    command_id: str
    chat: str
    group: str


class ModelAsked(Request, frozen=True, kw_only=True, tag="models.chosen"):
    """To the router: which model the owner chose for a group in the chat. Answer: ModelChosen."""

    group: str


class ModelChosen(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="models.chosen.answer"):
    #: "" = none: the configuration's. Whether it is (still) allowed, `core.model_choice` says.
    model: str


class FoundMessage(msgspec.Struct, frozen=True, kw_only=True):
    """`text` is cut around the first hit. `is_own`: we said it."""

    number: int
    chat: str
    sender_name: str
    sent_ms: int
    text: str
    is_own: bool = False


class FoundMessages(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="messages.search.answer"):
    rows: tuple[FoundMessage, ...]
    #: Ask again with this for older ones; 0 = there are none.
    more_before: int = 0
    #: How many messages were searched, and when the newest of them was written (0 = there are none): the index is
    #: written with each message, so this is all there is.
    searched: int = 0
    newest_ms: int = 0


class GroupAnswer(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="groups.register.answer"):
    group: Group


class Deliver(Request, frozen=True, kw_only=True, tag="message.send"):
    """To the router: send a message to a chat as a person would by `microclaw message send`. Answer: Done or Failed."""

    command_id: str
    chat: str
    text: str
    reply_to: str = ""
