"""Who may wake the assistant, by the owner's list."""

from __future__ import annotations

import json
from pathlib import Path

from tests.contract.router.router_play import RouterPlay

from microclaw.core.kinds import MessageReceived
from microclaw.router.senders import Senders


def says(number: int, sender: str, text: str, chat: str = "wa:fam", **more: object) -> MessageReceived:
    return MessageReceived(
        chat=chat, platform_id=str(number), sender=sender, sender_name=sender, text=text, sent_ms=number, **more
    )


async def play(tmp_path: Path, content: str | None) -> tuple[RouterPlay, list[str]]:
    path = tmp_path / "senders.json"
    if content is not None:
        path.write_text(content)
    made, troubles = RouterPlay(tmp_path), []
    made.inbound._senders = Senders(path, troubles.append)
    await made.register("wa:fam", "fam", requires_trigger=False)
    return made, troubles


async def test_only_who_is_listed_wakes_it_and_what_the_others_said_goes_along(tmp_path: Path) -> None:
    made, _ = await play(tmp_path, json.dumps({"default": {"allow": ["ann"]}}))
    assert await made.hears(says(1, "bob", "psst")) == []
    (run,) = await made.hears(says(2, "ann", "hello"))
    assert [prompt.text for prompt in run.messages] == ["psst", "hello"]


async def test_drop_keeps_nothing(tmp_path: Path) -> None:
    made, _ = await play(tmp_path, json.dumps({"default": {"allow": ["ann"], "mode": "drop"}}))
    await made.hears(says(1, "bob", "psst"))
    (run,) = await made.hears(says(2, "ann", "hello"))
    assert [prompt.text for prompt in run.messages] == ["hello"]


async def test_ac56_a_damaged_or_missing_list_lets_nobody_but_the_owner(tmp_path: Path) -> None:
    for content in ("not JSON", None):
        folder = tmp_path / str(content)
        folder.mkdir()
        made, troubles = await play(folder, content)
        assert await made.hears(says(1, "ann", "hello")) == []
        assert len(troubles) == 1
        assert len(await made.hears(says(2, "me", "hello", from_me=True))) == 1


async def test_a_list_that_changes_holds_at_once(tmp_path: Path) -> None:
    made, _ = await play(tmp_path, json.dumps({"default": {"allow": []}}))
    assert await made.hears(says(1, "ann", "hello")) == []
    (tmp_path / "senders.json").write_text(json.dumps({"default": {"allow": "*"}}))
    assert len(await made.hears(says(2, "ann", "hello"))) == 1
