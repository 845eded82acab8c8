"""The whole way of a message, and what the mesh costs.

    python bench/chat.py [--quick] [--json] [--only bubblewrap,docker]

The mesh is the real one (supervisord, every service, real sandboxes) with the `scripted` model, which answers at once:
what is measured is ours.

- *warm*: a line is said in a quiet chat whose worker lives. From before `console.say` is asked until the worker has
  written the first line of the turn into its transcript (seen by inotify), and until the reply was read by a waiting
  `console.read`. Each hop's mean by the times in the journal's envelopes.
- *cold*: the same to the worker's first line, for groups whose sandbox must be started first.
- *stored*: lines through the console until the journal has them, several clients with several in flight; and messages
  published directly, until the journal and until the router's database has them.
- *ready*: from the start of `microclaw up` until every service says that it works; the first time makes the databases.
- *memory*: PSS of supervisord and all that it started, the warm workers included, after the warm messages.
- *processor*: what each process used for a warm message, wherever it waited.

Goals hold for a quiet machine; beside them stand the load average and what one sync costs on this disk. A message meets
six on its way to the worker: console, broker, router, broker, queue, broker.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import bus_bounds, chat_load  # noqa: E402 - found from the repository's root, however this was started
from bench.chat_processes import cpu_ms, pss_mb  # noqa: E402
from tests.mesh.harness import Mesh  # noqa: E402

from microclaw.core.errors import MicroclawError  # noqa: E402
from microclaw.core.requests import ServiceStatus, StatusAsked  # noqa: E402

BACKENDS = ("bubblewrap", "docker")
#: Wherever a scripted mesh is wanted.
CONFIG = '[model]\nbackend = "scripted"\n[sandbox]\nbackend = "{backend}"\nmax_workers = 32\n'
#: What is asked of a quiet machine: name → at most.
GOALS = {"warm_p50_ms": 20.0, "mesh_pss_mb": 350.0, "ready_s": 3.0, "version_ms": 150.0}


@dataclass(frozen=True)
class Size:
    """How long it all takes."""

    warm: int
    cold: int
    starts: int
    store_s: float
    published: int
    #: An engine may have to make its image first.
    engine_wait_s: float


QUICK = Size(warm=60, cold=3, starts=1, store_s=1.5, published=1_500, engine_wait_s=25.0)
FULL = Size(warm=500, cold=10, starts=5, store_s=8.0, published=10_000, engine_wait_s=180.0)


@dataclass
class Found:
    """What was measured."""

    values: dict[str, float] = field(default_factory=dict)
    cold_ms: dict[str, float] = field(default_factory=dict)
    hops_ms: dict[str, float] = field(default_factory=dict)
    memory_mb: dict[str, float] = field(default_factory=dict)
    cpu_ms: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def note(text: str) -> None:
    """Progress, not results."""
    print(text, file=sys.stderr, flush=True)


def version_ms(runs: int) -> float:
    """`microclaw version`, as a shell starts it; the median."""
    installed = Path(sys.executable).with_name("microclaw")
    command = [str(installed)] if installed.exists() else [sys.executable, "-m", "microclaw.cli"]
    took = []
    for _ in range(runs):
        begin = time.monotonic()
        subprocess.run([*command, "version"], check=True, stdout=subprocess.DEVNULL)
        took.append((time.monotonic() - begin) * 1000)
    return statistics.median(took)


async def start_s(mesh: Mesh) -> float:
    """Start it; until every service is ready."""
    begin = time.monotonic()
    mesh.start()
    await mesh.ready()
    return time.monotonic() - begin


async def backend_of(mesh: Mesh, wait_s: float) -> str:
    """The backend that the sandbox service uses, or its trouble after a time without one."""
    until = time.monotonic() + wait_s
    while True:
        status = await (await mesh.bus()).request("sandbox", StatusAsked(), ServiceStatus)
        if backend := status.facts.get("backend"):
            return str(backend)
        if time.monotonic() > until:
            raise MicroclawError(next(iter(status.troubles), f"no backend within {wait_s:.0f} s"))
        await asyncio.sleep(0.1)


async def main_mesh(mesh: Mesh, size: Size, found: Found) -> None:
    """All but what other backends cost."""
    values = found.values
    values["ready_first_s"] = await start_s(mesh)
    took = []
    for _ in range(size.starts):
        mesh.stop()
        took.append(await start_s(mesh))
    values["ready_s"] = statistics.median(took)
    values["ready_cpu_s"] = sum(cpu_ms(mesh.supervisor.pid()).values()) / 1000
    await backend_of(mesh, size.engine_wait_s)
    note("ready; cold")
    starts = await chat_load.cold(mesh, "cold", size.cold)
    found.cold_ms["bubblewrap"] = statistics.median(way.start_ms for way in starts)
    chat, folder = await chat_load.register(mesh, "bench"), "bench"
    await chat_load.send(mesh, chat, folder, 10)
    note("warm")
    root = mesh.supervisor.pid()
    before = cpu_ms(root)
    ways = await chat_load.send(mesh, chat, folder, size.warm)
    found.cpu_ms = {name: (used - before.get(name, 0.0)) / size.warm for name, used in cpu_ms(root).items()}
    values["sync_p50_ms"] = await asyncio.to_thread(bus_bounds.fdatasync_p50_us, mesh.root, 0.5) / 1000
    for name, part in (("p50", 0.5), ("p99", 0.99)):
        values[f"warm_{name}_ms"] = chat_load.quantile([way.start_ms for way in ways], part)
        values[f"reply_{name}_ms"] = chat_load.quantile([way.reply_ms for way in ways], part)
    found.hops_ms = await chat_load.hops(mesh, chat, folder, ways)
    found.memory_mb = pss_mb(root)
    values["mesh_pss_mb"] = sum(found.memory_mb.values())
    note("stored")
    chats = [await chat_load.register(mesh, f"many{number}", needs_trigger=True) for number in range(4)]
    values["published_per_s"], values["routed_per_s"] = await chat_load.published_per_s(
        mesh, chats, 16, size.published
    )
    values["stored_per_s"] = await chat_load.said_per_s(mesh, chats, 8, size.store_s)


async def other_backend(backend: str, size: Size, found: Found) -> None:
    """First messages on this backend, if it can be used."""
    note(backend)
    async with Mesh(CONFIG.format(backend=backend)) as mesh:
        try:
            await backend_of(mesh, size.engine_wait_s)
        except MicroclawError as error:
            found.missing[backend] = str(error)
            return
        starts = await chat_load.cold(mesh, "cold", size.cold)
        found.cold_ms[backend] = statistics.median(way.start_ms for way in starts)


async def measure(size: Size, backends: list[str]) -> Found:
    """Everything."""
    found = Found()
    found.values["version_ms"] = version_ms(5)
    home = Path(tempfile.mkdtemp(prefix="mcb-", dir="/tmp"))
    mesh = Mesh(CONFIG.format(backend="bubblewrap"), home=home)
    try:
        await main_mesh(mesh, size, found)
    except BaseException:
        mesh.print_logs()
        raise
    finally:
        await mesh.close()
        await asyncio.to_thread(mesh.stop)
        shutil.rmtree(home, ignore_errors=True)
    for backend in backends:
        if backend != "bubblewrap":
            await other_backend(backend, size, found)
    return found


def table(found: Found, load: float) -> None:
    """For people."""
    values = found.values
    rows = [
        ("message → worker begins, warm, p50", "warm_p50_ms", "ms"),
        ("message → worker begins, warm, p99", "warm_p99_ms", "ms"),
        ("message → reply read, warm, p50", "reply_p50_ms", "ms"),
        ("message → reply read, warm, p99", "reply_p99_ms", "ms"),
        ("typed lines in the journal", "stored_per_s", "/s"),
        ("published messages in the journal", "published_per_s", "/s"),
        ("… in the router's database", "routed_per_s", "/s"),
        ("up → all ready", "ready_s", "s"),
        ("up → all ready, first time", "ready_first_s", "s"),
        ("processor time of all until ready", "ready_cpu_s", "s"),
        ("memory of the mesh (PSS)", "mesh_pss_mb", "MiB"),
        ("microclaw version", "version_ms", "ms"),
    ]
    for title, name, unit in rows:
        goal = GOALS.get(name)
        wanted = "" if goal is None else f"   ≤ {goal:g}" + ("" if values[name] <= goal else "   MISSED")
        print(f"{title:40}{values[name]:12,.1f} {unit:5}{wanted}")
    for backend, took in found.cold_ms.items():
        print(f"{'message → worker begins, cold, ' + backend:40}{took:12,.1f} ms")
    for backend, why in found.missing.items():
        print(f"cold, {backend}: {why}")
    print("\nthe way of a warm message, means, ms")
    for name, took in found.hops_ms.items():
        print(f"  {name:38}{took:12,.1f}")
    print("\nprocess" + " " * 25 + "memory, MiB   processor, ms a message")
    for name, size in sorted(found.memory_mb.items(), key=lambda item: -item[1]):
        print(f"  {name:28}{size:13,.1f}{found.cpu_ms.get(name, 0.0):15,.2f}")
    print(f"  {'together':28}{values['mesh_pss_mb']:13,.1f}{sum(found.cpu_ms.values()):15,.2f}")
    print(f"\nload average while it ran: {load:.1f} on {os.cpu_count()} processors; "
          f"one sync of this disk: {values['sync_p50_ms']:.2f} ms")


def as_json(found: Found, load: float) -> dict[str, Any]:
    """The same for programs."""

    def rounded(values: dict[str, float]) -> dict[str, float]:
        return {name: round(value, 2) for name, value in values.items()}

    return rounded(found.values) | {
        "cold_ms": rounded(found.cold_ms), "hops_ms": rounded(found.hops_ms), "pss_mb": rounded(found.memory_mb),
        "cpu_ms": rounded(found.cpu_ms),
        "missing": found.missing, "load": round(load, 2), "processors": os.cpu_count(),
    }


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a look in a minute")
    parser.add_argument("--json", action="store_true", help="one object on the last line")
    parser.add_argument("--only", default=",".join(BACKENDS), help="these backends' cold starts, comma between")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Measure and print."""
    options = parse(arguments)
    found = asyncio.run(measure(QUICK if options.quick else FULL, [name for name in options.only.split(",") if name]))
    load = os.getloadavg()[0]
    table(found, load)
    if options.json:
        print(json.dumps(as_json(found, load)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
