"""What the broker answers of itself, to `microclaw status` and `microclaw bus`."""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Callable
from typing import Any

import msgspec

from microclaw.broker.jobs import Jobs
from microclaw.broker.metrics import prometheus
from microclaw.bus import admin
from microclaw.bus.calls import BROKER
from microclaw.bus.curve import KeyRing
from microclaw.bus.engine import Engine
from microclaw.bus.envelope import decode
from microclaw.bus.errors import BusError
from microclaw.bus.group import Group
from microclaw.bus.subjects import subject_matcher
from microclaw.core.requests import Done, Failed, ServiceStatus, StatusAsked

#: Rows looked at for one tail question, and their bytes.
TAIL_ROWS_MAX = 2_000
TAIL_BYTES_MAX = 4 << 20
#: Bytes of the dead letters in one answer: the newest that fit.
DEAD_BYTES_MAX = 8 << 20

Question = (
    StatusAsked | admin.BusInfoAsked | admin.GroupsOfBusAsked | admin.SessionsAsked | admin.TailAsked
    | admin.DeadLettersAsked | admin.SettleDead | admin.DropGroup | admin.MetricsAsked | admin.StartJob
    | admin.JobAsked | admin.PeersAsked | admin.AddPeer | admin.RemovePeer
)


class Administration:
    """Answers requests to the broker."""

    def __init__(
        self, engine: Engine, started_ms: int, ring: KeyRing, listens: str, knows: Callable[[str], bool]
    ) -> None:
        """`ring`: the keys of peers over tcp; `knows`: whether a name has rights on this bus."""
        self._engine = engine
        self._ring = ring
        self._listens = listens
        self._knows = knows
        self._started_ms = started_ms
        self._jobs = Jobs(engine.journal, engine.upkeep)
        self._answers: dict[type, Callable[[Any], msgspec.Struct]] = {
            StatusAsked: self._status, admin.BusInfoAsked: self._info, admin.GroupsOfBusAsked: self._groups,
            admin.SessionsAsked: self._sessions, admin.TailAsked: self._tail, admin.DeadLettersAsked: self._dead,
            admin.SettleDead: self._settle_dead, admin.DropGroup: self._drop_group, admin.MetricsAsked: self._metrics,
            admin.StartJob: self._jobs.start, admin.JobAsked: lambda _asked: self._jobs.state(),
            admin.PeersAsked: self._peers, admin.AddPeer: self._add_peer, admin.RemovePeer: self._remove_peer,
        }

    def answer(self, body: bytes, *, may_administer: bool) -> msgspec.Struct:
        """The answer to one question; what can't be answered is `Failed`."""
        try:
            question = msgspec.msgpack.decode(body, type=Question)
        except (msgspec.ValidationError, msgspec.DecodeError, RecursionError) as error:
            return Failed(reason=f"the broker does not answer that: {error}")
        if not may_administer and not isinstance(question, StatusAsked):
            return Failed(reason="that is the owner's to ask", code="denied")
        try:
            return self._answers[type(question)](question)
        except BusError as error:
            return Failed(reason=str(error), code="unavailable")

    # --- reading ----------------------------------------------------------------------------------------------------

    def _status(self, _asked: StatusAsked) -> ServiceStatus:
        facts: dict[str, str | int | float | bool] = dict(self._engine.facts())
        troubles = []
        if facts["no_space"]:
            troubles.append("the disk is full: nothing is accepted until there is room")
        if facts["dead"]:
            troubles.append(f"{facts['dead']} dead letters: `microclaw bus dlq ls` shows them")
        return ServiceStatus(
            service="broker", pid=os.getpid(), started_ms=self._started_ms, ready=True, facts=facts,
            troubles=tuple(troubles),
        )

    def _info(self, _asked: admin.BusInfoAsked) -> admin.BusInfo:
        engine, journal, statistics = self._engine, self._engine.journal, self._engine.statistics
        counts = journal.counts()
        file, wal = journal.sizes()
        return admin.BusInfo(
            epoch=journal.epoch, last_offset=engine.last_offset, first_offset=journal.first_offset(),
            messages=counts["messages"], sessions=counts["sessions"], groups=counts["groups"], dead=counts["dead"],
            clients=tuple(sorted(client.name for client in engine.clients.values())),
            published=engine.storage.published, duplicates=engine.storage.duplicates, commits=engine.commits,
            commit_p50_ms=statistics.commit_ms(0.5),
            commit_p99_ms=statistics.commit_ms(0.99), batch_p50=statistics.batch(0.5),
            batch_max=int(statistics.batch(1.0)), journal_bytes=file, wal_bytes=wal, no_space=engine.no_space,
        )

    def _groups(self, asked: admin.GroupsOfBusAsked) -> msgspec.Struct:
        if asked.name and asked.name not in self._engine.groups:
            return self._no_group(asked.name)
        return admin.GroupsOfBus(groups=tuple(
            self._group(group) for name, group in sorted(self._engine.groups.items()) if asked.name in ("", name)
        ))

    def _group(self, group: Group) -> admin.GroupOfBus:
        engine = self._engine
        oldest = group.oldest_unsettled()
        stored = engine.journal.stored_ms(oldest) if oldest is not None else None
        return admin.GroupOfBus(
            name=group.name, kinds=group.wanted.kinds, sessions=group.wanted.sessions,
            in_order=group.wanted.in_order,
            consumers=tuple(
                engine.clients[consumer.client].name for consumer in group.subscribers
                if consumer.client in engine.clients
            ),
            lag=engine.last_offset - group.next + 1, waiting=group.loaded, in_flight=len(group.leases),
            parked=group.parked, dead=len(engine.journal.dead_offsets(group.no)), redelivered=group.redelivered,
            expired=group.expired,
            oldest_unsettled_ms=max(0, time.time_ns() // 1_000_000 - stored) if stored is not None else 0,
            max_deliver=group.wanted.max_deliver,
            ack_wait_ms=int(group.wanted.ack_wait_s * 1000),
        )

    def _sessions(self, asked: admin.SessionsAsked) -> admin.SessionsOfBus:
        self._engine.upkeep.fold_all()
        found = self._engine.journal.sessions(asked.prefix, min(asked.limit, TAIL_ROWS_MAX))
        return admin.SessionsOfBus(sessions=tuple(
            admin.SessionOfBus(name=name, last_seq=last, kept=kept) for name, last, kept in found
        ))

    def _tail(self, asked: admin.TailAsked) -> admin.TailRows:
        journal = self._engine.journal
        after = self._engine.last_offset + asked.after if asked.after < 0 else asked.after
        if asked.after_ms:
            after = journal.offset_at(asked.after_ms) - 1
        matches = subject_matcher(asked.kinds)
        rows: list[admin.TailRow] = []
        size = 0
        for row in journal.scan(max(after, 0) + 1, TAIL_ROWS_MAX):
            after = row.offset
            envelope = decode(row.body)
            if matches(envelope.kind) and envelope.session_id.startswith(asked.sessions):
                rows.append(admin.TailRow(
                    offset=row.offset, seq=row.seq, stored_ms=journal.stored_ms(row.offset) or 0, body=row.body
                ))
                size += len(row.body)
            if len(rows) >= asked.limit or size > TAIL_BYTES_MAX:
                break
        return admin.TailRows(rows=tuple(rows), last=after)

    def _metrics(self, _asked: admin.MetricsAsked) -> admin.Text:
        groups = [self._group(group) for group in self._engine.groups.values()]
        return admin.Text(text=prometheus(self._info(admin.BusInfoAsked()), groups))

    # --- changing ---------------------------------------------------------------------------------------------------

    def _dead(self, asked: admin.DeadLettersAsked) -> msgspec.Struct:
        if asked.group and asked.group not in self._engine.groups:
            return self._no_group(asked.group)
        letters = [
            admin.DeadLetter(
                group=group.name, offset=offset, count=count, dead_ms=dead_ms, reason=reason, first_error=first,
                last_error=last, body=body,
            )
            for group in self._engine.groups.values() if asked.group in ("", group.name)
            for offset, count, dead_ms, reason, first, last, body in self._engine.journal.dead(group.no, asked.limit)
        ]
        letters.sort(key=lambda letter: (letter.dead_ms, letter.offset), reverse=True)
        sizes = itertools.accumulate(len(letter.body) for letter in letters)
        fit = sum(size <= DEAD_BYTES_MAX for size in sizes)
        return admin.DeadLetters(letters=tuple(letters[:min(asked.limit, fit)]))

    def _settle_dead(self, wanted: admin.SettleDead) -> msgspec.Struct:
        group = self._engine.groups.get(wanted.group)
        if group is None:
            return self._no_group(wanted.group)
        offsets = [wanted.offset] if wanted.offset else self._engine.journal.dead_offsets(group.no)
        act = self._engine.upkeep.requeue if wanted.action == "requeue" else self._engine.upkeep.drop_dead
        count = sum(act(group, offset) for offset in offsets)
        if wanted.offset and not count:
            return Failed(reason=f"{wanted.group} has no dead letter {wanted.offset}: `microclaw bus dlq ls`",
                          code="not_found")
        return admin.Settled(count=count)

    def _drop_group(self, wanted: admin.DropGroup) -> msgspec.Struct:
        group = self._engine.groups.get(wanted.name)
        if group is None:
            return self._no_group(wanted.name)
        if group.subscribers:
            return Failed(reason=f"{wanted.name} has consumers: stop them first", code="conflict")
        self._engine.upkeep.drop_group(group)
        return Done()

    def _peers(self, _asked: admin.PeersAsked) -> admin.Peers:
        return admin.Peers(listens=self._listens, names=tuple(self._ring.names()))

    def _add_peer(self, wanted: admin.AddPeer) -> msgspec.Struct:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", wanted.name) or wanted.name == BROKER:
            return Failed(reason=f"{wanted.name!r} is no name: small letters, digits, - and _ are wanted")
        if not self._knows(wanted.name):
            return Failed(reason=f"{wanted.name} has no rights on this bus: give it some in the configuration,"
                                 f" [bus.rights.{wanted.name}], and restart the broker")
        return admin.NewPeer(keys=self._ring.add(wanted.name))

    def _remove_peer(self, wanted: admin.RemovePeer) -> msgspec.Struct:
        if not self._ring.remove(wanted.name):
            return Failed(reason=f"{wanted.name} has no key: `microclaw bus key ls`", code="not_found")
        for client in list(self._engine.clients.values()):
            if client.name == wanted.name and not client.pid:
                self._engine.gone(client.routing, clean=False)
        return Done()

    def _no_group(self, name: str) -> Failed:
        known = ", ".join(sorted(self._engine.groups)) or "none"
        return Failed(reason=f"there is no consumer group {name}; there are: {known}", code="not_found")
