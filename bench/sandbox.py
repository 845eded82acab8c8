"""What a sandbox costs, beside the engine's own bare start in the same run; and what egress costs beside direct.

    python bench/sandbox.py [--quick] [--json] [--only bubblewrap,docker,podman]

For each backend that can be used here:

- *start*: from `backend.start` until the first line of a shell inside is read; hardened as every run is.
- *bare*: the same shell by the same engine with nothing asked of it: a container without network, or bubblewrap's
  namespaces over the host's root. Measured in turns with *start*, so that both meet the same load. What hardening costs
  is the difference in percent of the bare start.
- *engine pre-created* (engines with containers): a bare container that was made before is started.
- *cold*: from nothing to the end of the agent's first turn (`scripted`, which answers at once).
- *pre-created*: the worker lives and was greeted; its first turn. *warm*: its later turns.

Egress, with a server on 127.0.0.1 and everything in this process, a new connection for each request:

- a model call by the door's `/llm` route beside the same request sent directly;
- an HTTPS request of 2 kB through the door's CONNECT beside the same directly, and by the relay, as programs go: in a
  tunnel that is carried unopened, and in one that egress reads (TLS twice, the request judged, an audit entry more).

All are medians, in ms. Engines are looked for as MicroClaw does it (DOCKER_HOST, the usual sockets).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import egress_way  # noqa: E402 - found from the repository's root, however this was started

from microclaw.core.home import Home, home_from  # noqa: E402
from microclaw.core.turns import Watch  # noqa: E402
from microclaw.core.worker import Setup, ToolCall, ToolReply, Turn  # noqa: E402
from microclaw.sandbox.backend import Backend, RunSpec, SandboxError  # noqa: E402
from microclaw.sandbox.bubblewrap import Bubblewrap  # noqa: E402
from microclaw.sandbox.choose import make  # noqa: E402
from microclaw.sandbox.docker_engine import DockerEngine  # noqa: E402
from microclaw.sandbox.mounts import group_mounts  # noqa: E402
from microclaw.sandbox.worker import Worker  # noqa: E402

if TYPE_CHECKING:
    from docker import APIClient

BACKENDS = ("bubblewrap", "docker", "podman")
#: Says that it is there, then waits for the end of its input.
SHELL = ("/bin/sh", "-c", "echo up; read line")
#: A worker has so long to be ready, and a turn to end.
WAIT_S = 60.0
INSTALLATION = "bench"
_BARE_ULIMITS = {"nofile": 1024, "nproc": 4096}


@dataclass(frozen=True)
class Size:
    """How often."""

    starts: int
    cold: int
    warm: int
    requests: int


QUICK = Size(starts=5, cold=2, warm=20, requests=60)
FULL = Size(starts=30, cold=10, warm=200, requests=1000)


@dataclass
class Found:
    """What was measured, ms; `missing`: why a backend was not."""

    backends: dict[str, dict[str, float]] = field(default_factory=dict)
    egress: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def note(text: str) -> None:
    """Progress, not results."""
    print(text, file=sys.stderr, flush=True)


async def took_ms(work: Awaitable[object]) -> float:
    """How long this takes."""
    begin = time.perf_counter()
    await work
    return (time.perf_counter() - begin) * 1000


class Bench:
    """One backend."""

    def __init__(self, backend: Backend, home: Home, size: Size) -> None:
        self._backend = backend
        self._home = home
        self._size = size
        self._number = 0

    async def run(self) -> dict[str, float]:
        """All of it."""
        ours: list[float] = []
        bare: list[float] = []
        created: list[float] = []
        for _ in range(self._size.starts):
            ours.append(await self._start_ms())
            bare.append(await self._bare_ms())
            if isinstance(self._backend, DockerEngine):
                created.append(await self._bare_ms(created=True))
        cold: list[float] = []
        first: list[float] = []
        warm: list[float] = []
        for number in range(self._size.cold):
            begin = time.perf_counter()
            worker = await self._worker()
            try:
                first.append(await took_ms(self._turn(worker)))
                cold.append((time.perf_counter() - begin) * 1000)
                if number == 0:
                    warm += [await took_ms(self._turn(worker)) for _ in range(self._size.warm)]
            finally:
                await worker.kill()
        medians = {
            "start": ours, "bare": bare, "engine_precreated": created, "cold": cold, "precreated": first, "warm": warm,
        }
        found = {f"{name}_ms": statistics.median(values) for name, values in medians.items() if values}
        found["hardening_percent"] = (found["start_ms"] / found["bare_ms"] - 1) * 100
        return found

    def _spec(self, argv: tuple[str, ...] | list[str]) -> RunSpec:
        self._number += 1
        return RunSpec(
            worker_id=f"bench-{os.getpid()}-{self._number}", installation=INSTALLATION, argv=argv,
            env={"LANG": "C.UTF-8", "TZ": "UTC"},
            mounts=group_mounts(self._home, "bench", is_main=False, project=()),
        )

    async def _start_ms(self) -> float:
        begin = time.perf_counter()
        sandbox = await self._backend.start(self._spec(SHELL))
        line = await sandbox.receive()
        took = (time.perf_counter() - begin) * 1000
        await sandbox.kill()
        await sandbox.wait()
        if line != b"up\n":
            raise SandboxError(f"the shell inside said {line!r}")
        return took

    async def _bare_ms(self, *, created: bool = False) -> float:
        if isinstance(self._backend, Bubblewrap):
            return await _bare_bubblewrap_ms(self._backend.program())
        if isinstance(self._backend, DockerEngine):
            client = await self._backend.connect()
            image = self._backend.image
            return await asyncio.to_thread(_bare_container_ms, client, image, created)
        raise SandboxError(f"no bare start is known for {self._backend.name}")

    async def _worker(self) -> Worker:
        sandbox = await self._backend.start(self._spec(self._backend.agent_argv()))
        worker = Worker(sandbox, "bench")
        await worker.greet(Setup(
            group="bench", chat="console:bench", is_main=False, assistant_name="Andy", timezone="UTC",
            backend="scripted",
        ), WAIT_S)
        return worker

    async def _turn(self, worker: Worker) -> None:
        self._number += 1
        turn = Turn(run_id=f"run-{self._number}", prompt="#!say done", now_ms=time.time_ns() // 1_000_000)
        done = await worker.turn(turn, _no_tools, Watch(time.monotonic(), WAIT_S))
        if not done.ok:
            raise SandboxError(f"a turn failed: {done.error}")


async def _no_tools(call: ToolCall) -> ToolReply:
    return ToolReply(run_id=call.run_id, call_id=call.call_id, ok=False, text="error: none here")


async def _bare_bubblewrap_ms(program: Path) -> float:
    options = ("--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev")
    begin = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        str(program), *options, *SHELL, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    line = await process.stdout.readline()
    took = (time.perf_counter() - begin) * 1000
    await process.communicate(b"\n")
    if line != b"up\n":
        raise SandboxError("bubblewrap does not start bare here")
    return took


def _bare_container_ms(client: APIClient, image: str, created: bool) -> float:
    """A container with nothing asked of it but no network; `created`: only its start is timed."""
    begin = time.perf_counter()
    settings: dict[str, Any] = {
        "Image": image, "Entrypoint": [SHELL[0]], "Cmd": list(SHELL[1:]), "OpenStdin": True, "AttachStdout": True,
        # As ours: with `none` alone Docker still makes a place for networks, which takes longer than all the rest.
        "NetworkDisabled": True,
        # Without limits on descriptors and processes an engine in a container of its own may not start one at all.
        # No log on the engine's disk either: that is no part of hardening.
        "HostConfig": {
            "NetworkMode": "none",
            "Ulimits": [{"Name": name, "Soft": value, "Hard": value} for name, value in _BARE_ULIMITS.items()],
            "LogConfig": {"Type": "none", "Config": {}},
        },
    }
    container = client.create_container_from_config(settings)["Id"]  # type: ignore[no-untyped-call]
    try:
        if created:
            begin = time.perf_counter()
        stream = client.attach_socket(container, params={"stdout": 1, "stream": 1})
        client.start(container)
        if not stream.read(1):
            raise SandboxError("a bare container said nothing")
        took = (time.perf_counter() - begin) * 1000
        stream.close()
        return took
    finally:
        client.remove_container(container, force=True, v=True)


async def measure(size: Size, names: list[str]) -> Found:
    """Everything."""
    found = Found()
    folder = Path(tempfile.mkdtemp(prefix="mc-sb-", dir="/tmp"))
    try:
        home = home_from({"MICROCLAW_HOME": str(folder)})
        home.create()
        for name in names:
            note(name)
            backend = make(name)
            seen = await backend.probe()
            if not seen.usable:
                found.missing[name] = seen.reason
                continue
            await backend.prepare()
            found.backends[name] = await Bench(backend, home, size).run()
        note("egress")
        found.egress = await egress_way.measure(home, folder, size.requests)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return found


def table(found: Found, load: float) -> None:
    """For people."""
    columns = (
        "start_ms", "bare_ms", "hardening_percent", "engine_precreated_ms", "cold_ms", "precreated_ms", "warm_ms",
    )
    print(f"{'':12}" + "".join(f"{name.replace('_ms', ''):>20}" for name in columns))
    for name, values in found.backends.items():
        cells = (f"{values[column]:20.1f}" if column in values else f"{'-':>20}" for column in columns)
        print(f"{name:12}" + "".join(cells))
    for name, reason in found.missing.items():
        print(f"{name:12} not here: {reason}")
    for name, value in found.egress.items():
        print(f"{name:40}{value:10.2f}")
    print(f"load average {load:.1f}")


def main(arguments: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="what a sandbox and its way out cost")
    parser.add_argument("--quick", action="store_true", help="less than a minute, rough numbers")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    parser.add_argument("--only", default=",".join(BACKENDS), help="backends, by comma")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.ERROR)
    names = [name for name in options.only.split(",") if name]
    found = asyncio.run(measure(QUICK if options.quick else FULL, names))
    load = os.getloadavg()[0]
    table(found, load)
    if options.json:
        print(json.dumps({
            "backends": found.backends, "egress": found.egress, "missing": found.missing, "load": load,
        }))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
