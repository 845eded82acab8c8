"""Traffic whose every message can be accounted for: numbered messages in several groups, an echo for each."""

from __future__ import annotations

import asyncio
import random
import re
from collections import defaultdict

from tests.mesh.harness import Mesh

from microclaw.core.requests import GroupAnswer, RegisterGroup

#: The agent that answers `echo: TEXT`, a line for each message.
SCRIPTED = '[model]\nbackend = "scripted"\n[sandbox]\nbackend = "bubblewrap"\nmax_workers = 16\n'
#: Generous: everything was killed many times on a small machine.
ANSWER_TIMEOUT_S = 120.0

_ECHO = re.compile(r"echo: (\S+)")


class Traffic:
    """Messages `<group>-<number>` in `groups` console chats, and what came back."""

    def __init__(self, mesh: Mesh, groups: int) -> None:
        self.mesh = mesh
        self.folders = [f"g{number}" for number in range(groups)]
        self.sent: dict[str, list[str]] = defaultdict(list)

    async def register(self) -> None:
        owner = await self.mesh.bus("cli")
        for folder in self.folders:
            await owner.request(
                "router",
                RegisterGroup(command_id=f"reg-{folder}", chat=f"console:{folder}", folder=folder, name=folder,
                              trigger="@Andy", requires_trigger=False),
                GroupAnswer,
            )

    async def send(self, total: int, seed: random.Random, pause_s: float) -> None:
        """`total` messages, the groups in random order, each group's in order."""
        order = [folder for folder in self.folders for _ in range(total // len(self.folders))]
        seed.shuffle(order)
        for folder in order:
            text = f"{folder}-{len(self.sent[folder])}"
            await self.mesh.say(f"console:{folder}", text, platform_id=text)
            self.sent[folder].append(text)
            await asyncio.sleep(seed.uniform(0, 2 * pause_s))

    async def answered(self) -> dict[str, list[str]]:
        """The echoed texts of every group, in order, once all have come (or time is up: then what lacks shows)."""
        return {folder: await self._answered(folder) for folder in self.folders}

    async def _answered(self, folder: str) -> list[str]:
        echoes: list[str] = []
        after = 0
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                while len(echoes) < len(self.sent[folder]):
                    lines = await self.mesh.replies(f"console:{folder}", 1, after=after, timeout_s=ANSWER_TIMEOUT_S)
                    after = lines[-1].number
                    echoes += [text for line in lines for text in _ECHO.findall(line.text)]
        except (TimeoutError, AssertionError):
            return echoes
        # One more look: whatever was doubled would come right behind.
        for line in await self.mesh.replies(f"console:{folder}", 0, after=after):
            echoes += _ECHO.findall(line.text)
        return echoes
