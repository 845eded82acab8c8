"""Who may say what on the bus: least privilege, by the name under which a process is known to the broker.

A name that stands nowhere here may do nothing. A connector of the owner's own is given its rights in the configuration
(`[bus.rights.NAME]`), which can't widen the rights of the names below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from microclaw.core.settings import Bus

#: Everybody may say these.
AUDIT = "audit.entry"


@dataclass(frozen=True, slots=True)
class Rights:
    """What one name may do. Patterns of kinds are as in a subscription."""

    #: Kinds it may publish, always as itself (`source` is its name).
    publish: tuple[str, ...] = ()
    #: Sessions it may publish in begin so; "" = any.
    sessions: tuple[str, ...] = ("",)
    #: Kinds it may subscribe to.
    read: tuple[str, ...] = ()
    #: Services it may ask; `*` = any.
    ask: tuple[str, ...] = ()
    #: Sessions it may replay begin so; () = none.
    replay: tuple[str, ...] = ()
    #: May ask the broker to change things (dead letters, backup, …).
    admin: bool = False
    #: Is one of the mesh's own processes: must have the same parent as the broker where that can be seen.
    supervised: bool = True


def connector(name: str) -> Rights:
    """The rights of the connector whose chats begin with `name:`."""
    return Rights(
        publish=("message.received", "chats.named", "reply.delivered", AUDIT), sessions=(f"{name}:", "audit"),
        read=("reply.requested", "presence.changed"), ask=("egress",),
    )


RIGHTS: Mapping[str, Rights] = {
    "router": Rights(
        publish=("run.requested", "reply.requested", "approval.answered", "control.requested", AUDIT),
        read=("message.received", "chats.named", "reply.delivered"), ask=("queue", "scheduler", "egress"),
    ),
    # It says the end of a run that was lost or never begun: the sandbox can't.
    "queue": Rights(
        publish=("run.granted", "run.finished", "reply.requested", AUDIT),
        read=("run.requested", "task.withdrawn", "run.finished"), ask=("router",),
    ),
    "scheduler": Rights(
        publish=("run.requested", "task.withdrawn", "reply.requested", AUDIT), read=("run.finished",),
        ask=("router", "queue"),
    ),
    "sandbox": Rights(
        publish=("reply.requested", "run.finished", "presence.changed", AUDIT),
        read=("run.granted", "control.requested"),
        ask=("router", "scheduler", "egress"),
    ),
    # It tells connectors that their secret was set.
    "egress": Rights(
        publish=("reply.requested", AUDIT), read=("approval.answered", AUDIT),
        ask=("router", "telegram", "discord", "email"),
    ),
    "watch": Rights(publish=("service.alarm", AUDIT)),
    "gateway": Rights(
        publish=("message.received", "reply.delivered", AUDIT), sessions=("device:", "audit"),
        read=("reply.requested",), replay=("device:",), ask=("router", "queue", "scheduler"),
    ),
    **{name: connector(name) for name in ("console", "telegram", "discord", "email", "imessage")},
    # The owner at the command line: any process of the owner's user can be that.
    "cli": Rights(publish=(">",), read=(">",), ask=("*",), replay=("",), admin=True, supervised=False),
}


def rights_of(name: str, own: Mapping[str, Rights]) -> Rights | None:
    """The rights of a name, None = it is nobody. `own` is what the configuration adds (`*` stands for every name that
    is not the house's); it can't change the house's."""
    return RIGHTS.get(name) or own.get(name) or own.get("*")


def guests(settings: Bus) -> dict[str, Rights]:
    """What the configuration adds."""
    return {
        name: Rights(
            publish=guest.publish, sessions=guest.sessions, read=guest.read, ask=guest.ask, replay=guest.replay,
            supervised=False,
        )
        for name, guest in settings.rights.items()
    }
