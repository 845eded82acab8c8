"""The whole mesh with all four connectors at once, each against its platform."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.contract.processes import until
from tests.fakes.platforms import Platform, Platforms
from tests.mesh.harness import Mesh

from microclaw.core.people_requests import ChangeUser, UserAnswer

CONFIG = "[assistant]\nprefix = false\n"
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(64)


@pytest.fixture
async def platforms() -> AsyncIterator[Platforms]:
    folder = Path(tempfile.mkdtemp(prefix="mcp-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        async with Platforms(folder) as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Household:
    """A mesh that lives on all platforms, set up as its owner does it, with one person on each."""

    def __init__(self, mesh: Mesh, platforms: Platforms) -> None:
        self.mesh = mesh
        self.platforms = platforms

    async def cli(self, *arguments: str, stdin: str = "") -> tuple[int, Any]:
        done = await asyncio.to_thread(self.mesh.cli, *arguments, "--json", stdin=stdin)
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    async def move_in(self, platform: Platform) -> None:
        settings = [word for key, value in platform.settings().items() for word in ("--set", f"{key}={value}")]
        code, said = await self.cli("channels", "add", platform.name, "--no-install", *settings, stdin=platform.secret)
        assert code == 0, said
        await (await self.mesh.bus("cli")).request("router", ChangeUser(
            command_id=platform.name, action="add", name=platform.name, sender=platform.sender, folder=platform.name,
        ), UserAnswer)

    async def states(self) -> dict[str, str]:
        _code, rows = await self.cli("channels", "status")
        return {row["channel"]: row["state"] for row in rows}

    async def is_connected(self) -> bool:
        """Everywhere."""
        return set((await self.states()).values()) == {"connected"}

    async def answered(self, platform: Platform, *texts: str) -> None:
        """All that arrived in its chat; waits until there is as much."""
        await until(lambda: len(platform.texts()) >= len(texts))
        assert platform.texts() == list(texts) and platform.texts_elsewhere() == []


async def test_pain06_pain09_on_four_platforms_at_once_each_chat_gets_its_own_answers_whatever_happens_to_the_others(
    platforms: Platforms,
) -> None:
    async with Mesh(CONFIG, platforms.env) as mesh:
        home = Household(mesh, platforms)
        for each in platforms:
            await home.move_in(each)
        said: dict[str, list[str]] = {}

        # What was written before a connector first saw its platform is not its to answer.
        await until(home.is_connected)

        # A message with a file in each chat is answered there, and the agent has the file.
        for number, each in enumerate(platforms):
            each.says(f"note: the code of {each.name} is {number}", PICTURE + bytes([number]), f"{each.name}.png")
        for number, each in enumerate(platforms):
            said[each.name] = [f"Noted: the code of {each.name} is {number}"]
            await home.answered(each, *said[each.name])
            (file,) = (mesh.home.groups / each.name / "attachments").glob("*.png")
            assert file.read_bytes() == PICTURE + bytes([number]) and each.name in file.name
        code, rows = await home.cli("channels", "status")
        assert code == 0 and [row["state"] for row in rows] == ["connected"] * 4, rows
        assert (await home.cli("status"))[0] == 0

        # Every connector is killed with a message on its way; what each answers is its own group's.
        before = {each.name: mesh.pid(each.name) for each in platforms}
        for each in platforms:
            each.says("show notes")
            mesh.kill(each.name)
        for number, each in enumerate(platforms):
            said[each.name].append(f"1. the code of {each.name} is {number}")
            await home.answered(each, *said[each.name])
            assert mesh.pid(each.name) not in (0, before[each.name])

        # Two platforms go away: the others do not notice, and what was asked meanwhile is answered later.
        away, here = (platforms.telegram, platforms.email), (platforms.discord, platforms.imessage)
        for each in away:
            await each.stop()
        for each in here:
            each.says("note: hello")
            said[each.name].append("Noted: hello")
            await home.answered(each, *said[each.name])

        async def seen() -> bool:
            found = await home.states()
            return [name for name, state in found.items() if state == "connected"] == ["discord", "imessage"]

        await until(seen)
        for each in away:
            each.says("note: hello")
            await each.start()
        for each in away:
            said[each.name].append("Noted: hello")
            await home.answered(each, *said[each.name])
        await until(home.is_connected)

        # What is not used any more is no trouble.
        assert (await home.cli("channels", "remove", "telegram"))[0] == 0
        code, doctor = await home.cli("doctor")
        (kept,) = (check for check in doctor["checks"] if check["what"] == "group telegram")
        assert code == 0 and kept["state"] == "warn" and kept["remedy"].endswith("microclaw bus sub rm telegram")
        assert (await home.cli("bus", "sub", "rm", "telegram"))[0] == 0
        code, seen_now = await home.cli("status")
        assert code == 0 and "telegram" not in [row["name"] for row in seen_now["services"]], seen_now
        console = [line.text for line in await mesh.replies("console:main")]
        assert not [text for text in console if "code" in text or "Noted" in text]
