"""What is made once for several groups is right for each of them; no frame grows too large; consumers take turns."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine_alone import EngineAlone, Peer, envelope

from microclaw.bus.api import Subscription
from microclaw.bus.delivering import BATCH_BYTES_MAX
from microclaw.bus.journal import Journal
from microclaw.bus.wire import Op
from microclaw.core.ids import new_id


def subscribed(alone: EngineAlone, name: str, group: str, *, at_once: int = 1_000) -> Peer:
    peer = alone.connect(name)
    alone.subscribe(peer, Subscription(group, (">",), max_in_flight=at_once))
    return peer


def body(session: str, text: str = "x") -> bytes:
    return envelope("publisher", session, new_id(1), text=text)


def seen(alone: EngineAlone, peer: Peer) -> list[tuple[int, bytes]]:
    """What it was given, but the broker's notices of dead letters."""
    given = [(offset, content) for offset, _seq, _count, content in alone.taken(peer)]
    return [(offset, content) for offset, content in given if b"bus.dead_letter" not in content]


def test_a_message_that_expired_or_is_damaged_is_kept_from_every_group_and_the_others_are_not(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db")
    alone = EngineAlone(journal)
    publisher = alone.connect("publisher")
    good, late, spoiled, last = body("a"), body("b"), body("c"), body("d")
    alone.publish(publisher, good, [late, 0, alone.clock.wall_ms - 1, None], spoiled, last)
    alone.turn()
    journal.begin()
    journal._write("UPDATE messages SET body = ? WHERE offset = 3", (body("c", "other"),))
    journal.commit()
    # A new engine: nothing of it is in memory, all is read from the disk.
    alone = EngineAlone(journal)
    peers = [subscribed(alone, f"consumer-{n}", f"group-{n}") for n in range(3)]
    alone.settle_down()
    for number, peer in enumerate(peers):
        assert seen(alone, peer) == [(1, good), (4, last)]
        assert [row[0] for row in journal.dead(alone.engine.groups[f"group-{number}"].no, 9)] == [3]
        assert alone.engine.groups[f"group-{number}"].expired == 1
    journal.close()


def test_groups_that_are_not_alike_are_not_given_each_others_messages(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db")
    alone = EngineAlone(journal)
    publisher = alone.connect("publisher")
    some, everything = alone.connect("some"), alone.connect("everything")
    alone.subscribe(some, Subscription("some", (">",), sessions="b", max_in_flight=1_000))
    alone.subscribe(everything, Subscription("everything", (">",), max_in_flight=1_000))
    bodies = [body(session) for session in ("a1", "b1", "a2", "b2")]
    alone.publish(publisher, *bodies)
    alone.turn()
    assert [content for _, content in seen(alone, everything)] == bodies
    assert [content for _, content in seen(alone, some)] == bodies[1::2]
    journal.close()


def test_large_messages_go_in_turns_of_bounded_bytes(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db")
    alone = EngineAlone(journal)
    publisher = alone.connect("publisher")
    peers = [subscribed(alone, f"consumer-{n}", f"group-{n}") for n in range(2)]
    bodies = [body(f"s{n}", "x" * 400_000) for n in range(8)]
    alone.publish(publisher, *bodies)
    got: list[list[bytes]] = [[], []]
    for _ in range(10):
        alone.turn()
        for number, peer in enumerate(peers):
            taken = [content for _, content in seen(alone, peer)]
            assert sum(map(len, taken)) < BATCH_BYTES_MAX + 410_000
            got[number] += taken
    assert got == [bodies, bodies]
    journal.close()


def test_whoever_had_a_message_before_takes_it_from_nobody_who_has_it_now(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db")
    alone = EngineAlone(journal)
    slow, quick = alone.connect("slow"), alone.connect("quick")
    wants = Subscription("work", (">",), ack_wait_ms=1_000, backoff_ms=(0,))
    alone.subscribe(slow, wants)
    alone.publish(alone.connect("publisher"), body("a"), body("a"))
    alone.settle_down()
    alone.subscribe(quick, wants)
    while not (given := seen(alone, quick)):
        assert [offset for offset, _ in seen(alone, slow)] == [1]
        alone.clock.pass_(1.1)
        alone.settle_down()
    assert [offset for offset, _ in given] == [1]
    for late in ((Op.NACK, "work", 1, 0, "later"), (Op.TERM, "work", 1, "never"), (Op.PROGRESS, "work", 1)):
        alone.say(slow, *late)
        alone.clock.pass_(0.3)
        alone.settle_down()
        assert seen(alone, slow) == seen(alone, quick) == []
    alone.clock.pass_(0.2)
    alone.settle_down()
    assert [offset for offset, _ in seen(alone, slow) + seen(alone, quick)] == [1], "nor did it keep it for anybody"
    alone.ack(quick, "work", [1])
    alone.clock.pass_(0.1)
    alone.settle_down()
    assert [offset for offset, _ in seen(alone, slow) + seen(alone, quick)] == [2], "done is done, whoever says it"
    journal.close()


@settings(max_examples=40)
@given(rooms=st.lists(st.integers(1, 7), min_size=1, max_size=4), messages=st.integers(0, 30))
def test_consumers_of_a_group_share_its_messages_evenly_as_far_as_each_has_room(
    rooms: list[int], messages: int
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        journal = Journal(Path(directory) / "j.db", synchronous="OFF")
        alone = EngineAlone(journal)
        publisher = alone.connect("publisher")
        peers = [subscribed(alone, f"consumer-{n}", "work", at_once=room) for n, room in enumerate(rooms)]
        alone.publish(publisher, *(body(f"s{n}") for n in range(messages)))
        alone.turn()
        counts = [len(alone.taken(peer)) for peer in peers]
        assert sum(counts) == min(messages, sum(rooms))
        for count, room in zip(counts, rooms, strict=True):
            # Nobody stands back while another has two more, unless it is full.
            assert count == room or count >= max(counts) - 1
        journal.close()
