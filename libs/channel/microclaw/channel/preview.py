"""An answer that is shown while it is being written.

Some platforms have a showing that passes by itself (Telegram's drafts): it leaves nothing, and that is all there is to
it. Elsewhere a message of ours is changed again and again, and in the end the answer's first part is a change of that
same message, so nothing stands there twice:

- That a message is begun is on disk before the platform hears of it; its id, once it is known. Where the process was
  killed in between, nobody knows whether it is there: then the run is shown no further, and the answer is a message of
  its own. To begin with the message says nothing (the platform's `show` takes care of that).
- The plan of the answer's parts names the message (`Part.edits`). A change can be made again, so such a part is never
  uncertain.
- From the plan on nothing of the run is shown any more, whatever is delivered late, also after a restart.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from microclaw.channel.notes import Notes
from microclaw.channel.platform import Limits, NotSent
from microclaw.core.kinds import PresenceChanged
from microclaw.core.settings import Assistant
from microclaw.core.splitting import split_text
from microclaw.core.text import outbound

log = logging.getLogger("microclaw.channels")

#: One showing, at most, seconds: the answer itself waits no longer for it.
SHOW_S_MAX = 5.0
#: A message whose run ended without an answer is taken away after so long, seconds; one that an earlier life of this
#: process left, after so long without a word of its run.
ENDED_S = 10.0
LEFT_S = 90.0
#: The kind of note: chat → run, blank, and the message that shows it, or one of the two below; "" = none.
PREVIEW = "preview"
#: The message may be there or not.
BEGUN = "?"
#: The answer is there.
OVER = "-"


class Preview(Protocol):
    """How a platform shows what is being written."""

    def every_s(self, chat: str) -> float:
        """The pause between two showings in a chat."""
        ...

    def leaves(self, chat: str) -> bool:
        """Whether a showing in this chat is a message, and not something that passes by itself."""
        ...

    async def show(self, chat: str, run_id: str, text: str, shown: str) -> str:
        """Show this. `shown` is the message that shows the run, "" = none yet: then, where `leaves`, a first one is
        sent, which says nothing yet. Returns the message's id, "" = there is none.

        :raises NotSent: it certainly was not, and may be later. Any other exception: never mind.
        """
        ...

    async def remove(self, chat: str, shown: str) -> None:
        """Take the message away."""
        ...


@dataclass(slots=True, eq=False)
class _Writing:
    """What is shown in a chat at present."""

    run_id: str
    text: str = ""
    told: str = ""
    is_over: bool = False
    #: Held while something is shown.
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    showing: asyncio.Task[None] | None = None
    removing: asyncio.Task[None] | None = None


class Previews:
    """Listens to `presence.changed`, and hands a run's message over to its answer."""

    def __init__(
        self, platform: Preview, limits: Limits, notes: Notes, assistant: Assistant, clock_ms: Callable[[], int]
    ) -> None:
        self._platform = platform
        self._limits = limits
        self._notes = notes
        self._assistant = assistant
        self._clock_ms = clock_ms
        self._chats: dict[str, _Writing] = {}
        self._removals: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Look after what an earlier life of this process left."""
        for chat, value in self._notes.all(PREVIEW).items():
            run_id, _, shown = value.partition(" ")
            if shown not in ("", BEGUN, OVER):
                writing = self._chats[chat] = _Writing(run_id)
                writing.removing = asyncio.create_task(self._remove_after(chat, writing, LEFT_S))

    def on_presence(self, presence: PresenceChanged) -> None:
        """Show what was written, soon."""
        chat, run_id = presence.chat, presence.run_id
        writing = self._chats.get(chat)
        if presence.state == "paused":
            if writing is not None and writing.run_id == run_id and writing.removing is None:
                writing.removing = asyncio.create_task(self._remove_after(chat, writing, ENDED_S))
            return
        if not presence.draft or presence.expires_ms <= self._clock_ms() or self._noted(chat) in (
            (run_id, OVER), (run_id, BEGUN)
        ):
            return
        if writing is None or writing.run_id != run_id:
            if writing is not None:
                writing.is_over = True
            writing = self._chats[chat] = _Writing(run_id)
        if writing.removing is not None:
            writing.removing.cancel()
            writing.removing = None
        text = outbound(presence.draft, self._assistant.name, prefix=self._assistant.prefix)
        # What is longer goes on in further messages, once it is an answer.
        writing.text = next(iter(split_text(text, self._limits.text_max, self._limits.measure)), "")
        if writing.showing is None or writing.showing.done():
            writing.showing = asyncio.create_task(self._keep_showing(chat, writing))

    async def message_of(self, chat: str, run_id: str) -> str:
        """The message that shows the run, "" = none. Nothing more of the run is shown from now on."""
        writing = self._chats.get(chat)
        if writing is not None and writing.run_id == run_id:
            writing.is_over = True
            async with writing.lock:
                pass  # what is on its way has come to its end
        known, shown = self._noted(chat)
        return shown if known == run_id and shown not in (BEGUN, OVER) else ""

    def taken(self, chat: str, run_id: str, edits: str, *, is_end: bool) -> None:
        """A reply of the run is planned: the message `edits` ("" = none) is that reply now. May be said again.
        `is_end`: it is the run's last word."""
        known, shown = self._noted(chat)
        if (known, shown) == (run_id, OVER) or known > run_id:
            return  # a run's id begins with its time: something newer is shown here
        is_left = shown not in ("", BEGUN, OVER) and (known, shown) != (run_id, edits)
        if is_left and known == run_id and not is_end:
            return  # said again, and meanwhile another message shows the run
        writing = self._chats.get(chat)
        if writing is not None and writing.run_id <= run_id:
            writing.is_over = True
            if writing.removing is not None:
                writing.removing.cancel()
            self._chats.pop(chat)
        self._note(chat, run_id, OVER if is_end else "")
        if is_left:
            self._removals.add(task := asyncio.create_task(self._remove(chat, shown)))
            task.add_done_callback(self._removals.discard)

    async def _keep_showing(self, chat: str, writing: _Writing) -> None:
        while writing.text != writing.told and not writing.is_over:
            pause_s = self._platform.every_s(chat)
            async with writing.lock:
                if writing.is_over:
                    return
                text = writing.text
                try:
                    async with asyncio.timeout(SHOW_S_MAX):
                        if await self._show(chat, writing.run_id, text):
                            writing.told = text
                except NotSent as reason:
                    pause_s = max(pause_s, reason.retry_after_s or 0.0)
                except Exception as error:  # noqa: BLE001 - whatever a platform's library raises; it is not worth more
                    log.info("not shown", extra={"chat": chat, "why": f"{type(error).__name__}: {error}"})
                    return
            await asyncio.sleep(pause_s)

    async def _show(self, chat: str, run_id: str, text: str) -> bool:
        """Returns whether the text is shown now: the first message says nothing yet."""
        known, shown = self._noted(chat)
        if known == run_id and shown in (BEGUN, OVER):
            return True
        if known != run_id:
            if shown not in ("", BEGUN, OVER):
                await self._remove(chat, shown)
            shown = ""
        if shown or not self._platform.leaves(chat):
            await self._platform.show(chat, run_id, text, shown)
            return True
        self._note(chat, run_id, BEGUN)
        try:
            shown = await self._platform.show(chat, run_id, text, "")
        except NotSent:
            self._note(chat, run_id, "")
            raise
        self._note(chat, run_id, shown)
        return False

    async def _remove_after(self, chat: str, writing: _Writing, seconds: float) -> None:
        await asyncio.sleep(seconds)
        async with writing.lock:
            writing.is_over = True
            known, shown = self._noted(chat)
            if known == writing.run_id and shown not in ("", BEGUN, OVER):
                self._note(chat, writing.run_id, "")
                await self._remove(chat, shown)
        if self._chats.get(chat) is writing:
            self._chats.pop(chat)

    async def _remove(self, chat: str, shown: str) -> None:
        with suppress(Exception):  # it may be gone already; it is worth no more
            async with asyncio.timeout(SHOW_S_MAX):
                await self._platform.remove(chat, shown)

    def _noted(self, chat: str) -> tuple[str, str]:
        run_id, _, shown = self._notes.get(PREVIEW, chat).partition(" ")
        return run_id, shown

    def _note(self, chat: str, run_id: str, shown: str) -> None:
        self._notes.set(PREVIEW, {chat: f"{run_id} {shown}"})
