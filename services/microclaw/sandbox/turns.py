"""`run.granted` in, one turn of the group's worker, `reply.requested` and `run.finished` out."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from microclaw.bus.api import Bus, Delivery, Draft
from microclaw.bus.service import Poison, Retry
from microclaw.core.container import Container
from microclaw.core.groups import is_folder
from microclaw.core.home import Home
from microclaw.core.ids import derived_id, id_time
from microclaw.core.kinds import ControlRequested, ReplyRequested, RunGranted
from microclaw.core.model_choice import choices, in_force
from microclaw.core.requests import Failed, Session, SessionAsked, Sessions, SessionsAsked
from microclaw.core.settings import Settings
from microclaw.core.turns import (
    DELIVERIES_MAX,
    GRACE_S,
    End,
    Loss,
    Lost,
    Watch,
    ended,
    failed,
    hard_timeout_s,
    longest_turn_s,
    may_resume,
    prompt_of,
)
from microclaw.core.worker import ToolCall, ToolReply, Turn, TurnDone
from microclaw.sandbox.attachments import put_into
from microclaw.sandbox.backend import EngineMissing, SandboxError, SpecRefused
from microclaw.sandbox.heartbeat import not_needed
from microclaw.sandbox.host_tools import Caller, HostTools
from microclaw.sandbox.memory import Memory
from microclaw.sandbox.own_settings import OwnSettings
from microclaw.sandbox.past import Past
from microclaw.sandbox.pool import Pool, Tenant, nothing_own
from microclaw.sandbox.presence import Presence
from microclaw.sandbox.store import Notes
from microclaw.sandbox.worker import OnWriting, WorkerLost

#: A run that takes longer is noted on disk, so that it may go on after its grant has expired.
NOTE_AFTER_S = 60.0

log = logging.getLogger("microclaw.sandbox")


class Turns:
    """The consumer of grants.

    :param timezone: the owner's, an IANA name.
    :param clock_ms: Unix milliseconds.
    :param own: what a group has of its own.
    """

    def __init__(
        self, pool: Pool, tools: HostTools, notes: Notes, memory: Memory, home: Home, settings: Settings, *,
        bus: Bus, timezone: str, clock_ms: Callable[[], int],
        own: Callable[[str], Awaitable[Container]] = nothing_own, past: Past | None = None,
    ) -> None:
        self._pool = pool
        self._bus = bus
        self._tools = tools
        self._notes = notes
        self._memory = memory
        self._home = home
        self._settings = settings
        self._timezone = timezone
        self._clock_ms = clock_ms
        self._own = own
        self._groups = OwnSettings(bus)
        self._past = past or Past(
            pool, home, settings, self._groups, memory, timezone=timezone, clock_ms=clock_ms
        )
        self._presence = Presence(bus, clock_ms)
        #: The run under way of each group and when it was granted; and those under way that the owner has stopped.
        self._under_way: dict[str, tuple[str, int]] = {}
        self._stopped: set[str] = set()
        #: Runs whose conversation was compacted, and where its text is.
        self._compacted: dict[str, str] = {}

    async def on_granted(self, delivery: Delivery) -> Sequence[Draft]:
        """One run, to its end. Delivered again, it is the same run: the worker goes on where it was.

        :raises Retry: the service stops in the middle of it.
        """
        grant_id = delivery.envelope.message_id
        grant = delivery.envelope.read(RunGranted)
        began_s = time.monotonic()
        noting = asyncio.get_running_loop().call_later(NOTE_AFTER_S, self._note, grant.run_id)
        try:
            end = self._not_begun(grant, delivery.envelope.ts_ms, delivery.count)
            if end is None:
                self._under_way[grant.group] = (grant.run_id, delivery.envelope.ts_ms)
                async with self._presence.shown(grant) as writing:
                    end = await self._run(grant, grant_id, writing)
                if not end.finished.ok and grant.run_id in self._stopped:
                    end = _stopped(grant)
        finally:
            noting.cancel()
            self._under_way.pop(grant.group, None)
            self._stopped.discard(grant.run_id)
        told = await self._past.told(grant, grant_id, self._compacted.pop(grant.run_id, ""))
        finished = end.finished
        if finished.waiting:
            self._notes.not_begun(grant.run_id)
        log.info("run ended", extra={
            "run_id": grant.run_id, "group": grant.group, "attempt": grant.attempt, "count": delivery.count,
            "ok": finished.ok, "error": finished.error, "visible": finished.visible,
            "prompt_chars": sum(len(message.text) for message in grant.messages), "reply_chars": len(end.reply),
            "took_ms": round((time.monotonic() - began_s) * 1000, 1),
        })
        return [*drafts_of(grant, grant_id, end), *told]

    async def on_control(self, delivery: Delivery) -> Sequence[Draft]:
        """The owner's `/stop`, `/new` or `/compact`. Twice is once."""
        wanted = delivery.envelope.read(ControlRequested)
        log.info("the owner's word", extra={"group": wanted.group, "action": wanted.action})
        if not is_folder(wanted.group):
            raise Poison(f"{wanted.group[:70]!r} is no group's folder")
        if wanted.action == "stop":
            await self._stop(wanted.group, id_time(delivery.envelope.message_id))
        elif wanted.action == "new":
            await self._begin_anew(wanted.group, id_time(delivery.envelope.message_id))
        else:
            return [await self._past.change(wanted, delivery.envelope.message_id)]
        return []

    async def on_sessions(self, _question: SessionsAsked, _asker: str) -> Sessions:
        """Answer `sessions.list`."""
        # Imported late: a service that nobody asks stays small.
        from microclaw.sandbox.conversations import sessions

        return await asyncio.to_thread(sessions, self._home.sessions, self._pool.live)

    async def on_session(self, question: SessionAsked, _asker: str) -> Session | Failed:
        """Answer `sessions.show`."""
        from microclaw.sandbox.conversations import session

        return await asyncio.to_thread(session, self._home.sessions, question.name, question.limit, question.skip)

    async def _stop(self, group: str, said_ms: int) -> None:
        """End what was granted to the group before the owner said so; not what they wrote afterwards."""
        run_id, granted_ms = self._under_way.get(group, ("", 0))
        if granted_ms > self._clock_ms():
            # The clock was set back meanwhile: by it, the run under way is still to come.
            said_ms = max(said_ms, granted_ms)
        # On disk first: it means also what did not come here yet, or goes on in the next life of this service.
        self._notes.stop(group, said_ms)
        if run_id and granted_ms <= said_ms:
            self._stopped.add(run_id)
            await self._pool.stop(group)

    def _not_begun(self, grant: RunGranted, granted_ms: int, count: int) -> End | None:
        """The end of a run that may not begin (any more)."""
        if self._notes.is_stopped(grant.group, granted_ms, self._clock_ms()):
            return _stopped(grant)
        if count > DELIVERIES_MAX:
            error = f"the sandbox service ended {count - 1} times in the middle of this run; look at its log"
            return failed(grant, error, retryable=True, visible=self._notes.is_visible(grant.run_id))
        if grant.expires_ms and self._clock_ms() > grant.expires_ms and not self._notes.is_begun(grant.run_id):
            return failed(grant, "the run could not begin in time", retryable=True)
        return not_needed(self._home, grant, has_model=self._settings.model.backend != "local")

    async def _run(self, grant: RunGranted, grant_id: bytes, writing: OnWriting) -> End:
        watch = await self._watch(grant.group)
        resumed = 0
        while True:
            try:
                done = await self._turn(grant, grant_id, watch, writing)
            except WorkerLost as loss:
                self._give_back_if_closing()
                log.warning("worker lost", extra={
                    "run_id": grant.run_id, "group": grant.group, "how": loss.lost.how, "resumed": resumed,
                })
                if may_resume(loss.lost, resumed) and grant.run_id not in self._stopped:
                    resumed += 1
                    continue
                return self._failed(grant, str(self._said(loss.lost)), retryable=True)
            except EngineMissing as error:
                # What is in the chat already is never begun anew: it waits for nothing.
                visible = self._notes.is_visible(grant.run_id)
                return failed(grant, str(error), retryable=False, visible=visible, waiting=not visible)
            except SpecRefused as error:
                return self._failed(grant, str(error), retryable=False)
            except (SandboxError, OSError) as error:
                self._give_back_if_closing()
                return self._failed(grant, str(error), retryable=True)
            if done.error_code == "stale_session":
                await self._begin_anew(grant.group, self._clock_ms())
            if done.compacted:
                self._compacted[grant.run_id] = done.compacted
            visible = not done.ok and self._notes.is_visible(grant.run_id)
            return ended(grant, done, visible=visible, key=self._settings.model.key)

    async def _turn(self, grant: RunGranted, grant_id: bytes, watch: Watch, writing: OnWriting) -> TurnDone:
        task = grant.task
        async with self._pool.lease(Tenant(grant.group, grant.chat, grant.is_main)) as worker:
            if grant.run_id in self._stopped:
                # While the worker was waited for.
                raise WorkerLost(Lost(Loss.STOPPED))
            who = Caller(grant, grant_id, worker.worker_id)

            async def on_call(call: ToolCall) -> ToolReply:
                return await self._tools.call(who, call)

            model = await self._model(grant)
            await put_into(self._bus, self._home.groups / grant.group, grant.messages)
            async with self._memory.turn(grant, worker) as told:
                turn = Turn(
                    run_id=grant.run_id,
                    prompt=prompt_of(grant, self._timezone),
                    now_ms=self._clock_ms(),
                    session=task.context if task else "group",
                    is_task=task is not None,
                    script=task.script if task else "",
                    model=model,
                    deadline_s=watch.left_s(time.monotonic()),
                    memory=told,
                )
                return await worker.turn(turn, on_call, watch, writing)

    async def _model(self, grant: RunGranted) -> str:
        """The model of this turn, "" = the usual one."""
        if grant.task is not None and grant.task.is_heartbeat and self._settings.heartbeat.model:
            return self._settings.heartbeat.model
        if not choices(self._settings.model):
            return ""
        return in_force(self._settings.model, await self._groups.model(grant.group))

    async def _begin_anew(self, group: str, at_ms: int) -> None:
        async def set_aside() -> None:
            if self._past.is_newer_there(group, at_ms):
                return  # asked for again: what was said since stays
            async with self._memory.exchanged(group):
                self._past.set_aside(group, at_ms)

        await self._pool.begin_anew(group, set_aside)

    async def _watch(self, group: str) -> Watch:
        wanted = self._settings.sandbox
        longest_s = longest_turn_s(hard_timeout_s(wanted.run_timeout_s, wanted.idle_timeout_s))
        own_ms = (await self._own(group)).timeout_ms
        hard_s = hard_timeout_s(wanted.run_timeout_s, wanted.idle_timeout_s, own_ms)
        return Watch(time.monotonic(), hard_s - GRACE_S, longest_s)

    def _failed(self, grant: RunGranted, error: str, *, retryable: bool) -> End:
        return failed(grant, error, retryable=retryable, visible=self._notes.is_visible(grant.run_id))

    def _said(self, lost: Lost) -> Lost:
        details = {
            Loss.OVERDUE: f"{self._settings.sandbox.run_timeout_s} s",
            Loss.OUT_OF_MEMORY: f"{self._settings.sandbox.memory_mb} MiB",
        }
        return Lost(lost.how, details.get(lost.how, lost.detail), lost.last_words)

    def _give_back_if_closing(self) -> None:
        if self._pool.closing:
            # We killed the worker ourselves: the next life of this service goes on with the run.
            raise Retry("the sandbox service is stopping", delay_ms=0)

    def _note(self, run_id: str) -> None:
        self._notes.begun(run_id, self._clock_ms())


def _stopped(grant: RunGranted) -> End:
    """The end by the owner's word: as if it had said something, so never tried again, and its messages are done."""
    return failed(grant, str(Lost(Loss.STOPPED)), retryable=False, visible=True)


def drafts_of(grant: RunGranted, grant_id: bytes, end: End) -> list[Draft]:
    """What the end of a grant publishes: always under the same ids, whoever comes to it how often. (A task's run may be
    granted again, under the same name.)"""
    ts_ms = id_time(grant_id)
    drafts = []
    if end.reply:
        reply = ReplyRequested(chat=grant.chat, text=end.reply, origin="answer", run_id=grant.run_id)
        drafts.append(Draft(
            grant.chat, reply, message_id=derived_id(ts_ms, grant.run_id, "reply"), ts_ms=ts_ms,
        ))
    drafts.append(Draft(
        f"group:{grant.group}", end.finished, message_id=derived_id(ts_ms, grant.run_id, "finished", grant_id),
        ts_ms=ts_ms,
    ))
    return drafts
