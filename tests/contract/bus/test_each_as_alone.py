"""What is published together with others of one turn is taken as if each had come alone, in a turn of its own."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine_alone import EngineAlone, envelope

from microclaw.bus import journal
from microclaw.bus.journal import Journal
from microclaw.bus.wire import Op

#: Few, so that repeats and conflicts are frequent; in the order of time and not.
IDS = [bytes([0, 0, 0, 0, 0, n, 0x70, 0, 0x80, 0, 0, 0, 0, 0, 0, n]) for n in range(6)]

bodies = st.builds(envelope, st.sampled_from(["p", "p", "p", "p", "another"]), st.sampled_from(["a", "b"]),
                   st.sampled_from(IDS), st.sampled_from(["k.one", "k.two"]), st.sampled_from(["x", "x", "y"]))
numbers = st.sampled_from([0, 0, 1, 1 << 40])
#: As on the wire; 2 as the place is often right and often wrong.
items = st.one_of(
    bodies, bodies, st.just(b"\xc1"), st.tuples(bodies, numbers, numbers, st.none() | st.integers(0, 3)).map(list)
)


class Told:
    """An engine and what it answered each of these calls."""

    def __init__(self, folder: Path) -> None:
        with mock.patch.object(journal, "PREWARM_BYTES", 0):
            self.journal = Journal(folder / "journal.db", synchronous="OFF")
        self.alone = EngineAlone(self.journal)
        self.peer = self.alone.connect("p")
        self.answers: dict[int, int | str] = {}

    def turn(self) -> None:
        for operation in self.alone.engine.turn().get(self.peer.routing, []):
            match operation:
                case [Op.PUBLISH_EACH, first, seqs]:
                    self.answers |= {rid: seq for rid, seq in enumerate(seqs, first) if seq}
                case [Op.PUBLISH, rid, [seq]]:
                    self.answers[rid] = seq
                case [Op.REFUSED, rid, code, *_]:
                    assert rid not in self.answers
                    self.answers[rid] = code

    def stored(self) -> list[tuple[Any, ...]]:
        return [
            (row.offset, self.journal.session_name(row.session), row.seq, row.body, row.not_before_ms, row.expires_ms)
            for row in self.journal.scan(1, 1_000)
        ]


@settings(max_examples=150)
@given(frames=st.lists(st.lists(st.lists(items, min_size=1, max_size=6), min_size=1, max_size=3), max_size=3))
def test_messages_of_every_sort_are_answered_and_stored_together_as_they_are_alone(
    frames: list[list[list[Any]]],
) -> None:
    """`frames`: what comes in one turn, operation by operation."""
    folder = Path(tempfile.mkdtemp(prefix="mc-each-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        for name in ("together", "alone"):
            (folder / name).mkdir()
        together, alone = Told(folder / "together"), Told(folder / "alone")
        rid = 1
        for operations in frames:
            for each in operations:
                together.alone.say(together.peer, Op.PUBLISH_EACH, rid, each)
                for number, item in enumerate(each, rid):
                    alone.alone.say(alone.peer, Op.PUBLISH, number, [item])
                    alone.turn()
                rid += len(each)
            together.turn()
        assert together.answers == alone.answers
        assert len(together.answers) == rid - 1

        def seen(one: Told) -> list[tuple[Any, ...]]:
            # The audit of what was denied comes in its own time.
            return [row[1:] for row in one.stored() if row[1] != "audit"]

        assert seen(together) == seen(alone)
        for one in (together, alone):
            one.journal.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
