"""What `microclaw bus` shows: tables for people, JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from microclaw.bus import admin
from microclaw.bus.api import Receipt
from microclaw.bus.envelope import Envelope, decode, with_seq
from microclaw.cli.context import Context, duration
from microclaw.cli.log_lines import clock
from microclaw.cli.terminal import one_line
from microclaw.core.ids import id_text

#: Width of a payload's text in a line for people.
TEXT_CHARS_MAX = 100


class Screens:
    """Prints answers of the broker."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def info(self, info: admin.BusInfo) -> None:
        """`bus info`"""
        if self.context.json:
            self.context.dump(msgspec.to_builtins(info))
            return
        self.context.table(("WHAT", "VALUE"), [
            ("epoch", info.epoch),
            ("messages kept", f"{info.messages} (offsets {info.first_offset} to {info.last_offset})"),
            ("sessions", str(info.sessions)),
            ("consumer groups", str(info.groups)),
            ("dead letters", str(info.dead)),
            ("clients", ", ".join(info.clients)),
            ("since start", f"{info.published} published, {info.duplicates} repeats, {info.commits} commits"),
            ("commit", f"p50 {info.commit_p50_ms:.2f} ms, p99 {info.commit_p99_ms:.2f} ms"),
            ("messages a commit", f"p50 {info.batch_p50:g}, most {info.batch_max}"),
            ("journal", f"{info.journal_bytes / 1e6:.1f} MB, write-ahead log {info.wal_bytes / 1e6:.1f} MB"),
            ("disk", "FULL: nothing is accepted" if info.no_space else "has room"),
        ])

    def done(self, facts: dict[str, object], text: str) -> None:
        """What was carried out."""
        if self.context.json:
            self.context.dump(facts)
        else:
            self.context.say(text)

    def metrics(self, text: str) -> None:
        """`bus metrics`: Prometheus text; as JSON its samples by name and labels."""
        if self.context.json:
            samples = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
            self.context.dump({name: float(value) for name, _, value in samples})
        else:
            print(text, end="")

    def sessions(self, sessions: Sequence[admin.SessionOfBus], prefix: str) -> None:
        """`bus ls`"""
        if self.context.json:
            self.context.dump(msgspec.to_builtins(list(sessions)))
            return
        if not sessions:
            self.context.say(f"no session begins with {prefix}" if prefix else "no session yet: nothing was published")
            return
        self.context.table(("SESSION", "LAST SEQ", "KEPT"), [(s.name, str(s.last_seq), str(s.kept)) for s in sessions])

    def groups(self, groups: Sequence[admin.GroupOfBus]) -> None:
        """`bus sub info`"""
        if self.context.json:
            self.context.dump(msgspec.to_builtins(list(groups)))
            return
        self.context.table(
            ("GROUP", "READS", "CONSUMERS", "LAG", "IN FLIGHT", "WAITING", "PARKED", "DEAD", "AGAIN", "OLDEST"),
            [
                (g.name, ",".join(g.kinds) + (f" in {g.sessions}*" if g.sessions else ""),
                 ",".join(g.consumers) or "none", str(g.lag), str(g.in_flight), str(g.waiting), str(g.parked),
                 str(g.dead), str(g.redelivered),
                 duration(g.oldest_unsettled_ms / 1000) if g.oldest_unsettled_ms else "-")
                for g in groups
            ],
            ["red" if g.dead else "yellow" if not g.consumers else "" for g in groups],
        )

    def rows(self, rows: Sequence[admin.TailRow]) -> None:
        """`bus tail`"""
        for row in rows:
            self.envelope(with_seq(decode(row.body), row.seq), row.offset, row.stored_ms)

    def envelope(self, envelope: Envelope, offset: int = 0, stored_ms: int = 0) -> None:
        """One message, a line."""
        payload = msgspec.msgpack.decode(envelope.payload)
        if self.context.json:
            shown = {
                "offset": offset, "seq": envelope.seq, "ts_ms": envelope.ts_ms, "source": envelope.source,
                "device_id": envelope.device_id, "session_id": envelope.session_id,
                "message_id": id_text(envelope.message_id), "payload": payload,
            }
            print(msgspec.json.encode(shown).decode())
            return
        kind = payload.pop("kind")
        text = msgspec.json.encode(payload).decode()
        if len(text) > TEXT_CHARS_MAX:
            text = text[: TEXT_CHARS_MAX - 1] + "…"
        when = clock(datetime.fromtimestamp((stored_ms or envelope.ts_ms) / 1000).astimezone())
        place = f"{offset:>7} " if offset else ""
        print(one_line(f"{place}{when} {envelope.source} → {kind} {envelope.session_id}#{envelope.seq} {text}"))

    def receipt(self, session: str, receipt: Receipt) -> None:
        """`bus pub`"""
        if self.context.json:
            self.context.dump({"session": session, "seq": receipt.seq, "message_id": id_text(receipt.message_id)})
        else:
            self.context.say(f"stored as {session}#{receipt.seq}")

    def dead(self, letters: Sequence[admin.DeadLetter]) -> None:
        """`bus dlq ls`"""
        if self.context.json:
            self.context.dump([
                msgspec.to_builtins(letter) | {"body": msgspec.msgpack.decode(decode(letter.body).payload)}
                for letter in letters
            ])
            return
        if not letters:
            self.context.say("no dead letters")
            return
        self.context.table(
            ("GROUP", "OFFSET", "KIND", "SESSION", "TRIED", "DIED", "WHY", "LAST ERROR"),
            [
                (letter.group, str(letter.offset), (envelope := decode(letter.body)).kind, envelope.session_id,
                 str(letter.count), datetime.fromtimestamp(letter.dead_ms / 1000).astimezone().strftime("%F %T"),
                 letter.reason, letter.last_error)
                for letter in letters
            ],
        )

    def peers(self, peers: admin.Peers) -> None:
        """`bus key ls`"""
        if self.context.json:
            self.context.dump(msgspec.to_builtins(peers))
            return
        self.context.say(f"tcp: {peers.listens or 'nowhere (bus.listen in the configuration)'}")
        if not peers.names:
            self.context.say("no peer has a key: `microclaw bus key add NAME FILE` makes one")
            return
        self.context.table(("NAME",), [(name,) for name in peers.names])

    def findings(self, findings: Sequence[str]) -> int:
        """`bus check`: the exit status, too."""
        if self.context.json:
            self.context.dump({"ok": not findings, "findings": list(findings)})
        elif findings:
            print(*map(one_line, findings), sep="\n")
            self.context.say(f"{len(findings)} findings: `microclaw down`, then `microclaw bus repair` saves the rest")
        else:
            self.context.say("every row is whole")
        return 5 if findings else 0

    def repaired(self, lost: Sequence[str], kept: Path) -> None:
        """`bus repair`"""
        if self.context.json:
            self.context.dump({"lost": list(lost), "damaged": str(kept)})
            return
        if lost:
            print(*map(one_line, lost), sep="\n")
        self.context.say(f"{len(lost)} messages are lost; the journal as it was is kept as {kept.name}")


class Share:
    """How much of a long work is done: on a terminal one line that changes, else a line whenever it is a tenth more.
    What is quick says nothing."""

    def __init__(self, context: Context, what: str) -> None:
        self._context = context
        self._what = what
        self._in_place = context.in_place
        self._told = 0.0

    def __enter__(self) -> Share:
        return self

    def show(self, share: float) -> None:
        """`share` of it is done, 0 to 1."""
        if self._in_place:
            print(f"\r\033[K{self._what} {share:.0%}", end="", file=sys.stderr, flush=True)
        elif share < 1 and share - self._told >= 0.1:
            self._told = share
            self._context.progress(f"{self._what} {share:.0%}")

    def __exit__(self, *_error: object) -> None:
        if self._in_place:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
