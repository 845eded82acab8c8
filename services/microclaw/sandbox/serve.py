"""The sandbox service: grants come in, workers do them, replies and ends go out."""

from __future__ import annotations

import asyncio
import contextlib
from zoneinfo import ZoneInfo

from microclaw.bus.api import Subscription
from microclaw.bus.errors import BusError
from microclaw.bus.service import Service, now_ms
from microclaw.core.home import Home
from microclaw.core.requests import ForkSession, Groups, GroupsAsked, SessionAsked, SessionsAsked
from microclaw.core.turns import DELIVERIES_MAX
from microclaw.sandbox.backend import Backend, SandboxError
from microclaw.sandbox.by_hand import ByHand
from microclaw.sandbox.choose import make
from microclaw.sandbox.doors import Doors
from microclaw.sandbox.host_tools import HostTools
from microclaw.sandbox.installation import closed_folders, installation_id, owner_zone, project_parts
from microclaw.sandbox.memory import Memory
from microclaw.sandbox.memory_commands import MemoryCommands
from microclaw.sandbox.memory_ledger import MemoryLedger
from microclaw.sandbox.own_settings import OwnSettings
from microclaw.sandbox.past import Past
from microclaw.sandbox.pool import Pool, Tenant
from microclaw.sandbox.readiness import Readiness, names_of
from microclaw.sandbox.store import Notes
from microclaw.sandbox.turns import Turns
from microclaw.sandbox.worker import WorkerLost
from microclaw.store.engine import open_store
from microclaw.store.heads import HEADS

#: A grant that nobody works on is given to the next one after this.
ACK_WAIT_MS = 30_000
#: The bus would put a grant aside after so many deliveries; we end its run long before (`DELIVERIES_MAX`).
DELIVER_MAX = 50 * DELIVERIES_MAX
#: Words of the owner that are heeded at the same time: a `/new` may wait for a run's end, a `/stop` never.
CONTROLS_AT_ONCE = 16
#: How often old notes and conversations are dropped.
TIDY_S = 3600.0
#: After the start, how long until every protection is measured: the first chats go first.
DEEP_PROBE_AFTER_S = 20.0
#: A measurement that could not be made is tried again after this.
MEASURE_AGAIN_S = 600.0
#: How often it is looked whether an engine that was away is back, and has left something of ours.
CLEAR_AWAY_S = 5.0
#: Pause between questions to a service that is not there yet.
ASK_AGAIN_S = 0.2


async def serve(service: Service) -> None:
    """Run until told to stop."""
    home, settings = service.home, service.settings
    engine = open_store(home.database("sandbox"), HEADS["sandbox"])
    notes = Notes(engine)
    installation = installation_id(home)
    timezone = owner_zone(settings.assistant.timezone)
    doors = Doors(service.bus)

    async def start(backend: Backend) -> None:
        reaped = await backend.reap(installation)
        service.facts |= {"backend": backend.name, "reaped": reaped}

    closed = closed_folders(home)
    readiness = Readiness(
        [
            make(name, closed, settings.sandbox.image, installation=installation, may_start=True)
            for name in names_of(settings)
        ],
        auto=settings.sandbox.backend == "auto", start=start, trouble=service.trouble,
    )
    own = OwnSettings(service.bus)
    pool = Pool(
        readiness.get, doors, home, settings,
        installation=installation, project=project_parts(home), timezone=timezone,
        on_change=lambda: service.facts.update(pool.facts), own=own.of, trouble=service.trouble,
    )
    memory = Memory(
        service.bus, MemoryLedger(engine, now_ms), home.groups, home.sessions, zone=ZoneInfo(timezone),
        clock_ms=now_ms, ask=settings.approvals.memory,
    )
    tools = HostTools(service.bus, notes, memory, now_ms, groups=home.groups, policy=settings.approvals)
    past = Past(pool, home, settings, own, memory, timezone=timezone, clock_ms=now_ms)
    turns = Turns(
        pool, tools, notes, memory, home, settings, bus=service.bus, timezone=timezone, clock_ms=now_ms, own=own.of,
        past=past,
    )
    service.spawn(readiness.keep_looking(), "backend")
    service.consume(
        Subscription(
            "sandbox", ("run.granted",), ack_wait_ms=ACK_WAIT_MS, max_deliver=DELIVER_MAX,
            max_in_flight=settings.queue.max_concurrent,
        ),
        turns.on_granted, concurrency=settings.queue.max_concurrent,
    )
    service.consume(
        Subscription("sandbox-control", ("control.requested",), ack_wait_ms=ACK_WAIT_MS), turns.on_control,
        concurrency=CONTROLS_AT_ONCE,
    )
    service.answer(SessionsAsked, turns.on_sessions)
    service.answer(SessionAsked, turns.on_session)
    service.answer(ForkSession, past.on_fork)
    MemoryCommands(service, memory).register()
    service.spawn(_recover(readiness, memory), "memory")
    service.spawn(memory.keep_looking(), "answers about memory")
    service.spawn(doors.begin(), "doors of earlier lives")
    service.spawn(_warm_main(service, pool), "main group's worker")
    service.spawn(_measure(service, readiness, pool), "deep probe")
    service.spawn(_clear_away(service, readiness, installation), "what an engine left")
    service.spawn(_tidy(notes, home), "old notes and conversations")
    by_hand = ByHand(service, readiness, pool, doors, installation)
    by_hand.register()
    await service.ready()
    try:
        await service.stopping.wait()
    finally:
        await by_hand.close()
        await pool.close()
        await memory.close()
        await doors.stop()
        engine.dispose()


async def _recover(readiness: Readiness, memory: Memory) -> None:
    await readiness.wait()  # the sandboxes of earlier lives are gone by then
    await memory.recover()


async def _warm_main(service: Service, pool: Pool) -> None:
    """The owner's first message of the day should not wait for a sandbox to start."""
    while True:
        try:
            known = await service.bus.request("router", GroupsAsked(), Groups)
            break
        except BusError:
            await asyncio.sleep(ASK_AGAIN_S)
    for group in known.groups:
        if group.is_main:
            # Whatever is in its way, the first run will meet it too and tell.
            with contextlib.suppress(SandboxError, WorkerLost, OSError):
                await pool.warm(Tenant(group.folder, group.chat, is_main=True))


async def _measure(service: Service, readiness: Readiness, pool: Pool) -> None:
    """Measure every protection of the backend. One that does not hold is used no more."""
    await asyncio.sleep(DEEP_PROBE_AFTER_S)
    while True:
        backend = await readiness.wait()
        found = await backend.probe(deep=True)
        if not found.usable:
            # A machine under load can spoil a measurement: once more before it counts.
            await asyncio.sleep(DEEP_PROBE_AFTER_S)
            found = await backend.probe(deep=True)
        service.facts |= {f"probe_{name}": seen for name, seen in found.measured.items()}
        if found.usable:
            return
        if found.measured:
            readiness.withdraw(backend, found.reason)
            await pool.end_idle()
        else:
            # Nothing was found to be open; it just could not be looked at.
            service.trouble(f"the sandbox could not be measured: {found.reason}")
            await asyncio.sleep(MEASURE_AGAIN_S)


async def _clear_away(service: Service, readiness: Readiness, installation: str) -> None:
    """An engine that went away leaves containers, which it still has when it is back."""
    while True:
        await asyncio.sleep(CLEAR_AWAY_S)
        if readiness.backend is not None:
            with contextlib.suppress(SandboxError, OSError):  # still away: the runs tell
                if count := await readiness.backend.clear_away(installation):
                    service.facts["reaped"] = int(service.facts.get("reaped", 0)) + count
                    service.log.warning("containers that an engine had left are removed", extra={"count": count})


async def _tidy(notes: Notes, home: Home) -> None:
    # Imported late: the first chats go first.
    from microclaw.sandbox.old_sessions import tidy

    while True:
        notes.forget(now_ms())
        await asyncio.to_thread(tidy, home, now_ms())
        await asyncio.sleep(TIDY_S)
