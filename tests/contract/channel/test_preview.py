"""What the kit makes of a platform that can show an answer while it is written: each case at its own pace."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from tests.contract.processes import until

from microclaw.channel import preview, tables
from microclaw.channel.notes import Notes
from microclaw.channel.platform import Limits, NotSent, Rejected
from microclaw.channel.preview import Previews
from microclaw.core.kinds import PresenceChanged
from microclaw.core.settings import Assistant
from microclaw.core.token_bucket import Rate

RATE = Rate(per_s=1000.0)
LIMITS = Limits(text_max=100, everywhere=RATE, chat=RATE)
CHAT = "some:1"


@dataclass
class Platform:
    """Remembers what it shows; `fails` is raised at the next showing."""

    shown: dict[str, str] = field(default_factory=dict)
    fails: list[Exception] = field(default_factory=list)
    calls: int = 0

    def every_s(self, chat: str) -> float:
        return 0.01

    def leaves(self, chat: str) -> bool:
        return True

    async def show(self, chat: str, run_id: str, text: str, shown: str) -> str:
        self.calls += 1
        if self.fails:
            raise self.fails.pop(0)
        name = shown or f"m{self.calls}"
        self.shown[name] = text if shown else "…"
        return name

    async def remove(self, chat: str, shown: str) -> None:
        self.shown.pop(shown)


@pytest.fixture
def notes(tmp_path: Path) -> Iterator[Notes]:
    engine = create_engine(f"sqlite:///{tmp_path / 'some.db'}")
    tables.metadata.create_all(engine)
    yield Notes(engine, tables.notes, lambda: 1)
    engine.dispose()


def life(platform: Platform, notes: Notes) -> Previews:
    """A life of the process."""
    previews = Previews(platform, LIMITS, notes, Assistant(name="Andy", prefix=False), lambda: 1)
    previews.start()
    return previews


def writes(run_id: str, text: str, expires_ms: int = 1000) -> PresenceChanged:
    return PresenceChanged(chat=CHAT, state="composing", run_id=run_id, expires_ms=expires_ms, draft=text)


async def test_a_message_is_begun_without_words_then_grows_and_is_handed_over(notes: Notes) -> None:
    platform = Platform()
    previews = life(platform, notes)
    previews.on_presence(writes("r1", "one"))
    await until(lambda: platform.shown == {"m1": "one"})
    previews.on_presence(writes("r1", "one two"))
    await until(lambda: platform.shown == {"m1": "one two"})
    assert await previews.message_of(CHAT, "r1") == "m1"
    previews.taken(CHAT, "r1", "m1", is_end=True)
    calls = platform.calls
    previews.on_presence(writes("r1", "late"))
    life(platform, notes).on_presence(writes("r1", "late after a restart"))
    await asyncio.sleep(0.1)
    assert platform.calls == calls


async def test_a_message_of_which_nobody_knows_whether_it_was_begun_is_left_alone_and_never_begun_again(
    notes: Notes,
) -> None:
    platform = Platform(fails=[Rejected("who knows")])
    previews = life(platform, notes)
    previews.on_presence(writes("r1", "one"))
    await until(lambda: platform.calls == 1)
    for now in (previews, life(platform, notes)):
        now.on_presence(writes("r1", "one two"))
        await asyncio.sleep(0.1)
        assert await now.message_of(CHAT, "r1") == ""
    assert platform.calls == 1
    previews.on_presence(writes("r2", "next"))
    await until(lambda: platform.shown == {"m2": "next"})


async def test_one_that_was_certainly_not_sent_is_begun_again(notes: Notes) -> None:
    platform = Platform(fails=[NotSent("too fast", 0.02)])
    life(platform, notes).on_presence(writes("r1", "one"))
    await until(lambda: platform.shown == {"m2": "one"})


async def test_what_an_earlier_life_left_goes_with_the_next_run_or_after_a_while(
    notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = Platform()
    life(platform, notes).on_presence(writes("r1", "one"))
    await until(lambda: platform.shown == {"m1": "one"})
    previews = life(platform, notes)
    previews.on_presence(writes("r2", "two"))
    await until(lambda: list(platform.shown.values()) == ["two"])
    monkeypatch.setattr(preview, "LEFT_S", 0.05)
    previews = life(platform, notes)
    await until(lambda: platform.shown == {})
    assert await previews.message_of(CHAT, "r2") == ""


async def test_an_answer_that_comes_again_takes_no_later_message_away(notes: Notes) -> None:
    platform = Platform()
    previews = life(platform, notes)
    previews.on_presence(writes("r1", "one"))
    await until(lambda: platform.shown == {"m1": "one"})
    previews.taken(CHAT, "r1", await previews.message_of(CHAT, "r1"), is_end=False)
    previews.on_presence(writes("r1", "more"))
    await until(lambda: "more" in platform.shown.values())
    previews.taken(CHAT, "r1", "m1", is_end=False)
    assert await previews.message_of(CHAT, "r1") not in ("", "m1")
    previews.taken(CHAT, "r0", "", is_end=True)
    assert await previews.message_of(CHAT, "r1") not in ("", "m1")


async def test_words_that_are_too_old_are_not_shown_and_long_ones_up_to_the_limit(notes: Notes) -> None:
    platform = Platform()
    previews = life(platform, notes)
    previews.on_presence(writes("r1", "old", expires_ms=1))
    await asyncio.sleep(0.05)
    assert platform.shown == {}
    previews.on_presence(writes("r2", "word " * 50))
    await until(lambda: any(text.startswith("word") for text in platform.shown.values()))
    assert [len(text) <= 100 for text in platform.shown.values()] == [True]
