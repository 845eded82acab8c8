"""Greed is bounded, and what is ended is gone."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from microclaw.core.worker import LINE_BYTES_MAX
from microclaw.sandbox.backend import Limits

#: Ends by itself before it takes all that the machine has, should nothing end it.
MEMORY_BOMB = "held = []\nfor _ in range(1 << 10): held.append(b'x' * (1 << 20))"
#: Until something on this machine, which may be busy, has come about.
WAIT_S = 30


async def test_ac44_iso04_a_fork_bomb_stops_at_the_limit(python):
    seen = await python("""
import os, time, signal
children = []
try:
    while len(children) < 500:
        pid = os.fork()
        if pid == 0:
            time.sleep(60); os._exit(0)
        children.append(pid)
except OSError as error:
    print(error.errno, len(children))
""", limits=Limits(pids=24))  # fmt: skip
    number, count = map(int, seen.text.split())
    assert number == 11  # EAGAIN
    assert 10 <= count < 24


async def test_ac44_iso04_a_memory_bomb_is_killed_and_told(python):
    began = time.monotonic()
    seen = await python(MEMORY_BOMB, limits=Limits(memory_bytes=64 << 20))
    assert seen.ended.code == 137
    assert seen.ended.out_of_memory
    assert time.monotonic() - began < WAIT_S


async def test_ac44_iso04_memory_counts_for_all_processes_and_tmp_together(python):
    seen = await python("""
import os
for _ in range(8):
    if os.fork() == 0:
        held = b'x' * (12 << 20)
        open(f"/tmp/{os.getpid()}", "wb").write(held[:4 << 20])
        import time; time.sleep(60)
os.wait()
print("one was killed")
os.kill(os.getpid(), 9)
""", limits=Limits(memory_bytes=64 << 20))  # fmt: skip
    assert seen.lines == ["one was killed"] or seen.ended.out_of_memory


async def test_ac44_iso04_processors_are_shared_out(python):
    seen = await python("""
import resource, time, os
start = time.monotonic()
for _ in range(3):
    if os.fork() == 0:
        while time.monotonic() - start < 1.5: pass
        os._exit(0)
for _ in range(3): os.wait()
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print((used.ru_utime + used.ru_stime) / (time.monotonic() - start))
""", limits=Limits(cpus=0.4))  # fmt: skip
    assert float(seen.text) < 0.65


async def test_ac44_iso05_ten_gigabytes_of_output_are_cut(run):
    began = time.monotonic()
    seen = await run(["/bin/sh", "-c", "yes 0123456789012345678901234567890123456789 | head -c 10G"],
                     limits=Limits(output_bytes=1 << 20))  # fmt: skip
    assert seen.ended.output_cut
    assert seen.ended.code == 137
    assert len(seen.text) <= 1 << 20
    assert time.monotonic() - began < WAIT_S


async def test_ac44_standard_error_counts_too_and_its_end_is_kept(run):
    seen = await run(["/bin/sh", "-c", "yes complaint >&2"], limits=Limits(output_bytes=1 << 20))
    assert seen.ended.output_cut
    assert seen.ended.stderr_tail.endswith("complaint\n") or "complaint" in seen.ended.stderr_tail
    assert len(seen.ended.stderr_tail) <= 4096


async def test_ac44_a_line_without_end_is_cut(python):
    seen = await python(f"import sys\nwhile True: sys.stdout.write('x' * {LINE_BYTES_MAX // 4})", limits=Limits())
    assert seen.ended.output_cut
    assert seen.ended.code == 137


async def test_ac44_iso05_a_kill_works_while_nobody_reads(backend, new_spec):
    """An engine whose stream stands still must still obey."""
    sandbox = await backend.start(new_spec(["/bin/sh", "-c", "yes"], limits=Limits(output_bytes=1 << 30)))
    # Long enough to fill every buffer on the way, had somebody to wait for that.
    assert await asyncio.wait_for(sandbox.receive(), WAIT_S) == b"y\n"
    await asyncio.sleep(0.3)
    began = time.monotonic()
    await asyncio.wait_for(sandbox.kill(), WAIT_S)
    assert time.monotonic() - began < 10
    assert (await sandbox.wait()).code == 137


async def test_ac44_iso05_a_kill_works_while_somebody_reads(backend, new_spec, reading):
    """Its reader comes to an end too, and not by the limit of output."""
    sandbox = await backend.start(new_spec(["/bin/sh", "-c", "yes; yes >&2"], limits=Limits(output_bytes=1 << 30)))
    assert await asyncio.wait_for(sandbox.receive(), WAIT_S) == b"y\n"
    busy = asyncio.create_task(reading(sandbox))
    await asyncio.sleep(0.2)
    began = time.monotonic()
    await asyncio.wait_for(sandbox.kill(), WAIT_S)
    assert time.monotonic() - began < 10
    seen = await asyncio.wait_for(busy, WAIT_S)
    assert (seen.ended.code, seen.ended.output_cut) == (137, False)


async def test_ac45_iso06_all_it_started_is_gone_after_a_kill(backend, new_spec):
    """Also what left its session and ignores every request."""
    name = f"mc{time.monotonic_ns()}"
    sandbox = await backend.start(new_spec([backend.agent_argv()[0], "-I", "-S", "-u", "-c", f"""
import os, signal, sys, time
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
for _ in range(2):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execvp({backend.agent_argv()[0]!r},
                ["python", "-I", "-S", "-c", "import time; time.sleep(600)", {name!r}])
        os._exit(0)
print("started")
time.sleep(600)
"""]))  # fmt: skip
    assert await asyncio.wait_for(sandbox.receive(), WAIT_S) == b"started\n"
    await until(lambda: len(processes_with(name)) >= 2)
    await asyncio.wait_for(sandbox.kill(), WAIT_S)
    assert len(processes_with(f'"{name}"')) == 0
    assert processes_with(name) == []


async def test_ac45_iso06_all_it_started_is_gone_after_its_own_end(backend, new_spec, reading):
    name = f"mc{time.monotonic_ns()}"
    sandbox = await backend.start(new_spec([backend.agent_argv()[0], "-I", "-S", "-u", "-c", f"""
import os, sys
if os.fork() == 0:
    os.setsid()
    os.execvp({backend.agent_argv()[0]!r}, ["python", "-I", "-S", "-c", "import time; time.sleep(600)", {name!r}])
sys.stdin.readline()
"""]))  # fmt: skip
    await until(lambda: processes_with(name) != [])
    await sandbox.send(b"go\n")
    assert (await reading(sandbox)).ended.code == 0
    assert processes_with(name) == []


async def test_other_runs_do_not_notice(backend, new_spec, python):
    """A greedy neighbour changes nothing for a quiet one."""
    quiet = await backend.start(new_spec(["/bin/sh", "-c", "while read line; do echo got $line; done"]))
    try:
        greedy = asyncio.create_task(
            python(MEMORY_BOMB, limits=Limits(memory_bytes=64 << 20))
        )
        for number in range(20):
            await quiet.send(f"{number}\n".encode())
            assert await asyncio.wait_for(quiet.receive(), WAIT_S) == f"got {number}\n".encode()
        assert (await greedy).ended.out_of_memory
        await quiet.send(b"after\n")
        assert await asyncio.wait_for(quiet.receive(), WAIT_S) == b"got after\n"
    finally:
        await quiet.kill()


def processes_with(name: str) -> list[int]:
    """Processes of this machine that have it as an argument of their own."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if name.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


async def until(holds) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        await asyncio.sleep(0.02)
