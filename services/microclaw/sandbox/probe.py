"""What a backend is worth on this machine: measured by runs that try to get out, not read from its settings."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from microclaw.sandbox.backend import Backend, Ended, EngineMissing, Limits, Mount, ProbeResult, RunSpec, SandboxError

#: Small, so that reaching them is quick.
LIMITS = Limits(memory_bytes=96 << 20, pids=32, cpus=0.5, tmp_bytes=4 << 20, output_bytes=1 << 20, open_files=256)
#: What the run that measures the limit of memory asks for.
MEMORY_TRIED_BYTES = 3 * LIMITS.memory_bytes
#: How long one measuring run may take; a machine under load is slow.
RUN_WAIT_S = 60.0
#: The first run is tried so often if it is killed or does not start: by a machine that is short of memory, say, which
#: tells nothing of the backend, and to be without one for a while fails everybody's runs for good.
TRIES = 3
#: Exit code of a run that was killed.
KILLED = 137
#: Backends and shells add these by themselves.
HARMLESS_NAMES = ("PATH", "HOME", "HOSTNAME", "PWD", "LC_CTYPE", "container", "TERM")
INSTALLATION = "probe"


async def probe_backend(backend: Backend, version: str, *, deep: bool, run: bool = True) -> ProbeResult:
    """Run `true`; `deep` also measures every protection. `run` False = there is no image to run it in yet."""
    found = ProbeResult(backend.name, True, version=version)
    if not run:
        return found
    try:
        for left in reversed(range(TRIES)):
            try:
                ended, _said_lines = await _run(backend, _spec("true", ["true"]))
            except SandboxError as error:
                if not left or isinstance(error, EngineMissing):
                    raise
                continue
            if ended.code != KILLED:
                break
        if ended.code != 0:
            return replace(found, usable=False, reason=f"{backend.name} can't run a program: {_said(ended)}")
        return await _measure(backend, found) if deep else found
    except SandboxError as error:
        return replace(found, usable=False, reason=str(error))


async def _measure(backend: Backend, found: ProbeResult) -> ProbeResult:
    folder = _folders()
    try:
        results = await _inside(backend, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    results["memory"] = await _memory(backend)
    results["kill"] = await _kill(backend)
    broken = [f"{name} ({seen})" for name, (held, seen) in results.items() if not held]
    return replace(
        found,
        usable=not broken,
        reason=f"{backend.name} does not hold here: {'; '.join(broken)}; use another backend" if broken else "",
        measured={name: seen for name, (_, seen) in results.items()},
    )


def _folders() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="mc-probe-")).resolve()
    for name in ("group", "global", "door"):
        (folder / name).mkdir()
    folder.chmod(0o755)
    (folder / "global" / "probe").write_text("shared")
    return folder


def _open_to_all(door: Path) -> None:
    """As the egress service's doors are: who may connect is decided by who sees it."""
    door.chmod(0o666)


async def _inside(backend: Backend, folder: Path) -> dict[str, tuple[bool, str]]:
    group, shared, door = (folder / name for name in ("group", "global", "door"))
    server = await asyncio.start_unix_server(_hang_up, door / "egress.sock")
    _open_to_all(door / "egress.sock")
    try:
        code = files(__package__).joinpath("measure.py").read_text()
        numbers = (LIMITS.tmp_bytes, LIMITS.pids, LIMITS.cpus)
        argv = [backend.agent_argv()[0], "-I", "-S", "-c", code, *map(str, numbers), *HARMLESS_NAMES]
        spec = replace(
            _spec("measure", argv), door=door,
            mounts=(Mount(group, "/workspace/group", writable=True), Mount(shared, "/workspace/global")),
        )  # fmt: skip
        ended, said = await _run(backend, spec)
    finally:
        server.close()
    if ended.code != 0 or not said:
        raise SandboxError(f"{backend.name}: the measuring run failed: {_said(ended)}")
    results: Mapping[str, list[object]] = json.loads(said[-1])
    return {name: (held is True, str(seen)) for name, (held, seen) in results.items()}


async def _memory(backend: Backend) -> tuple[bool, str]:
    # Where the limit does not hold it ends by itself, before this machine's memory does.
    tried = MEMORY_TRIED_BYTES >> 20
    greedy = f"import time\nheld = []\nfor _ in range({tried}):\n    held.append(b'x' * (1 << 20)); time.sleep(0.001)"
    loop = asyncio.get_running_loop()
    start = loop.time()
    ended, _ = await _run(backend, _spec("memory", [backend.agent_argv()[0], "-I", "-S", "-c", greedy]))
    # Where each process has the whole memory as its own limit, Python may see the refusal before it is killed.
    held = ended.out_of_memory or "MemoryError" in ended.stderr_tail
    if not held:
        return False, f"{tried} MiB taken, the limit is {LIMITS.memory_bytes >> 20}"
    return True, f"stopped at {LIMITS.memory_bytes >> 20} MiB after {loop.time() - start:.1f} s (code {ended.code})"


async def _kill(backend: Backend) -> tuple[bool, str]:
    """Ends with all it started, though they ignore every request."""
    stubborn = "trap '' TERM HUP INT; (trap '' TERM HUP INT; setsid sleep 600) & echo started; sleep 600; sleep 600"
    sandbox = await backend.start(_spec("kill", ["/bin/sh", "-c", stubborn]))
    loop = asyncio.get_running_loop()
    try:
        await asyncio.wait_for(sandbox.receive(), RUN_WAIT_S)
        start = loop.time()
        await asyncio.wait_for(sandbox.kill(), RUN_WAIT_S)
    except TimeoutError:
        return False, f"still there after {RUN_WAIT_S:g} s"
    return True, f"all gone after {(loop.time() - start) * 1000:.0f} ms"


async def _run(backend: Backend, spec: RunSpec) -> tuple[Ended, list[bytes]]:
    sandbox = await backend.start(spec)
    said: list[bytes] = []

    async def read() -> Ended:
        while (line := await sandbox.receive()) is not None:
            said.append(line)
        return await sandbox.wait()

    try:
        return await asyncio.wait_for(read(), RUN_WAIT_S), said
    except TimeoutError:
        await sandbox.kill()
        raise SandboxError(f"{backend.name}: a run of {spec.argv[0]} took longer than {RUN_WAIT_S:g} s") from None


def _spec(what: str, argv: list[str]) -> RunSpec:
    # The process id keeps two probes of one engine apart.
    name = f"probe-{what}-{os.getpid()}"
    return RunSpec(worker_id=name, installation=INSTALLATION, argv=argv, limits=LIMITS, workdir="/workspace")


def _said(ended: Ended) -> str:
    lines = ended.stderr_tail.strip().splitlines()
    return lines[-1] if lines else f"exit code {ended.code}"


async def _hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()
