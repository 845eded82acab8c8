"""The way through each connector, and what its process needs.

    python bench/connectors.py [--quick] [--json]

Real connectors, broker and egress as processes; the platforms are those of `tests/fakes` on loopback, in this process:
Bot API and Discord's gateway and REST, Dovecot and an SMTP server over TLS, Messages' database and an `osascript`. In
every round each connector has one message and one reply, alone, as in a quiet chat:

- *in*: from the moment in which the platform has a person's message until its envelope was read on the bus.
- *out*: from before a reply is published until the platform has it.

Beside them in the same rounds runs the library's own minimal connector (`tests/fakes/chirp_connector.py`), which speaks
lines of JSON over TCP: *ratio* is a connector's median over that one's. The rest is their platforms': Dovecot tells of
a new mail half a second late (to tell of several at once); a mail out is a TLS connection and a login; Messages'
database is glanced at ten times a second (`imessage.serve.GLANCE_S`), and each `osascript` is a program that starts.

Memory is a process's own at the end: PSS (shared pages divided) and RSS.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.chat_load import quantile  # noqa: E402 - found from the repository's root, however this was started
from tests.broker_process import OPEN_BUS  # noqa: E402
from tests.contract.listener import Listener  # noqa: E402
from tests.contract.processes import Installation, ask, installation, until  # noqa: E402
from tests.fakes.chirp_server import ChirpServer  # noqa: E402
from tests.fakes.platforms import Platform, Platforms  # noqa: E402

from microclaw.bus.api import Bus, Draft  # noqa: E402
from microclaw.bus.service import now_ms  # noqa: E402
from microclaw.core.ids import derived_id  # noqa: E402
from microclaw.core.kinds import MessageReceived, ReplyRequested  # noqa: E402
from microclaw.core.requests import (  # noqa: E402
    ChannelStatus,
    ChannelStatusAsked,
    SecretAnswer,
    SetSecret,
)

#: Rounds by size. A round takes at least `ROUND_S`: no platform's bucket is ever empty.
QUICK, FULL = 15, 120
ROUND_S = 1.1
WARM = 2
BASE = "chirp"
PATIENCE_S = 30.0
LOOK_S = 0.0005


class Chirp:
    """The library's own platform, as the others."""

    name, sender, chat, secret = BASE, f"{BASE}:ann", f"{BASE}:a", ""

    def __init__(self) -> None:
        self.server = ChirpServer()

    def settings(self) -> dict[str, str]:
        return {}

    async def start(self) -> None:
        await self.server.start()

    async def stop(self) -> None:
        await self.server.stop()

    def says(self, text: str, file: bytes = b"", name: str = "") -> None:  # noqa: ARG002 - it knows no files
        self.server.says("a", text, now_ms())

    def texts(self) -> list[str]:
        return self.server.texts(self.chat)

    def texts_elsewhere(self) -> list[str]:
        return []


@dataclass
class Found:
    """What was measured, in ms and MiB, by connector."""

    inbound: dict[str, list[float]] = field(default_factory=dict)
    outbound: dict[str, list[float]] = field(default_factory=dict)
    pss_mb: dict[str, float] = field(default_factory=dict)
    rss_mb: dict[str, float] = field(default_factory=dict)


@dataclass
class Desk:
    """All that runs."""

    made: Installation
    platforms: list[Platform]
    cli: Bus
    heard: Listener[MessageReceived]


@asynccontextmanager
async def running() -> AsyncIterator[Desk]:
    """Broker, egress, the platforms and their connectors, connected."""
    with tempfile.TemporaryDirectory(prefix="mcb-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        chirp = Chirp()
        await chirp.start()
        async with Platforms(Path(folder)) as four, installation() as made:
            platforms: list[Platform] = [chirp, *four]
            made.env |= four.env
            made.programs[BASE] = ["tests.fakes.chirp_connector", f"127.0.0.1:{chirp.server.port}"]
            made.home.config.write_text(OPEN_BUS + configuration(list(four)))
            made.start("broker")
            made.start("egress")
            cli = await made.connect("cli")
            for each in platforms:
                if each.secret:
                    await ask(cli, "egress", SetSecret(name=each.name, value=each.secret), SecretAnswer)
                made.start(each.name)

            async def is_connected() -> bool:
                states = [await ask(cli, each.name, ChannelStatusAsked(), ChannelStatus) for each in platforms]
                return all(state.state == "connected" for state in states)

            await until(is_connected)
            yield Desk(made, platforms, cli, Listener(await made.connect("watcher"), "router", MessageReceived))
        await chirp.stop()


def configuration(platforms: list[Platform]) -> str:
    """Tables of the configuration file. How often iMessage looks stays as it comes."""
    lines = ["[assistant]", "prefix = false"]
    for each in platforms:
        lines += [f"[channels.{each.name}]", "enabled = true"]
        for key, value in each.settings().items():
            if key != "poll_ms":
                lines.append(f"{key} = {value if value.isdigit() else json.dumps(value)}")
    return "\n".join(lines) + "\n"


async def inbound_ms(desk: Desk, platform: Platform, text: str) -> tuple[float, str]:
    """One message in; also the chat's address."""
    begin = time.monotonic()
    platform.says(text)
    while True:
        message = await desk.heard.next()
        # Some platforms tell us of our own words too.
        if message.chat.startswith(f"{platform.name}:") and message.text.endswith(text):
            return (time.monotonic() - begin) * 1000, message.chat


async def outbound_ms(desk: Desk, platform: Platform, chat: str, text: str, number: int) -> float:
    """One reply out."""
    begin = time.monotonic()
    await desk.cli.publish(Draft(
        chat, ReplyRequested(chat=chat, text=text), message_id=derived_id(now_ms(), chat, number), ts_ms=now_ms(),
    ))
    await looked_for(lambda: text in platform.texts()[-3:])
    return (time.monotonic() - begin) * 1000


async def looked_for(condition: Callable[[], bool]) -> None:
    """Until it holds, seen within a millisecond."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(LOOK_S)


async def measure(rounds: int) -> Found:
    """All rounds."""
    found = Found()
    async with running() as desk:
        for number in range(rounds + WARM):
            begin = time.monotonic()
            # Whoever is first after the pause finds cold caches: each in its turn.
            turn = number % len(desk.platforms)
            for each in desk.platforms[turn:] + desk.platforms[:turn]:
                took_in, chat = await inbound_ms(desk, each, f"in {number}")
                took_out = await outbound_ms(desk, each, chat, f"out {number}", number)
                if number >= WARM:
                    found.inbound.setdefault(each.name, []).append(took_in)
                    found.outbound.setdefault(each.name, []).append(took_out)
            await asyncio.sleep(max(0.0, ROUND_S - (time.monotonic() - begin)))
        for each in desk.platforms:
            found.pss_mb[each.name], found.rss_mb[each.name] = memory_mb(desk.made.pid(each.name))
    return found


def memory_mb(pid: int) -> tuple[float, float]:
    """PSS and RSS of one process."""
    text = (Path("/proc") / str(pid) / "smaps_rollup").read_text()
    sizes = {name: int(size) / 1024 for name, size in re.findall(r"^(Pss|Rss):\s+(\d+) kB", text, re.MULTILINE)}
    return sizes["Pss"], sizes["Rss"]


def as_json(found: Found, load: float) -> dict[str, Any]:
    """For programs."""
    ways = {"in": found.inbound, "out": found.outbound}
    shown: dict[str, Any] = {}
    for name in found.inbound:
        row = shown[name] = {"pss_mb": round(found.pss_mb[name], 1), "rss_mb": round(found.rss_mb[name], 1)}
        for way, took in ways.items():
            row |= {f"{way}_p50_ms": round(quantile(took[name], 0.5), 2),
                    f"{way}_p99_ms": round(quantile(took[name], 0.99), 2),
                    f"{way}_ratio": round(quantile(took[name], 0.5) / quantile(took[BASE], 0.5), 2)}
    return {"connectors": shown, "rounds": len(found.inbound[BASE]), "load": round(load, 2),
            "processors": os.cpu_count()}


def table(shown: dict[str, Any]) -> None:
    """For people."""
    print(f"{'':12}{'in, ms':>10}{'p99':>9}{'ratio':>8}{'out, ms':>12}{'p99':>9}{'ratio':>8}{'PSS, MiB':>12}{'RSS':>8}")
    for name, row in shown["connectors"].items():
        print(f"{name:12}" + "".join(
            f"{row[f'{way}_p50_ms']:{width}.1f}{row[f'{way}_p99_ms']:9.1f}{row[f'{way}_ratio']:8.1f}"
            for way, width in (("in", 10), ("out", 12))
        ) + f"{row['pss_mb']:12.0f}{row['rss_mb']:8.0f}")
    print(f"\n{shown['rounds']} rounds; load average while it ran: {shown['load']:.1f} on {os.cpu_count()} processors")


def main(arguments: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a look in half a minute")
    parser.add_argument("--json", action="store_true", help="one object on the last line")
    options = parser.parse_args(arguments)
    # The SMTP server's words about itself.
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore", DeprecationWarning)
    found = asyncio.run(measure(QUICK if options.quick else FULL))
    shown = as_json(found, os.getloadavg()[0])
    table(shown)
    if options.json:
        print(json.dumps(shown))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
