"""Apple's `container`: each sandbox a small virtual machine, driven by its command line.

What differs from the others: processors and memory come in whole ones and MiB; /tmp is bounded by the machine's memory
alone; processes are bounded by user; there is no seccomp profile (the machine has a kernel of its own).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import tarfile
import tempfile
from collections.abc import Collection
from pathlib import Path

from microclaw.sandbox import apple_command as command
from microclaw.sandbox import image, inside, pipes
from microclaw.sandbox.backend import Ended, EngineMissing, ProbeResult, RunSpec, SandboxError, SpecRefused
from microclaw.sandbox.docker_spec import LABEL, container_name
from microclaw.sandbox.giving_up import or_undo
from microclaw.sandbox.image_content import OFFICIAL_BASE, OWN_IMAGE, Stage, stages
from microclaw.sandbox.output import Output
from microclaw.sandbox.spec import admit

log = logging.getLogger(__name__)

PROGRAM = "container"
#: Its machines have Apple's processors.
ARCHITECTURE = "arm64"
#: One question to the program.
CALL_WAIT_S = 60.0
#: Making the image, its download included.
BUILD_WAIT_S = 1800.0
KILLED = 137


class AppleContainer:
    """The backend."""

    name = "apple"

    def __init__(
        self, closed: Collection[Path] = (), *, image_name: str = OWN_IMAGE, program: str = PROGRAM,
        say: image.Say | None = None, may_start: bool = False,
    ) -> None:  # fmt: skip
        """:param closed: folders of this installation that no run may see.
        :param say: told the lines of an image being made.
        :param may_start: start container's services where they are not running: after the machine's start nobody else
            does."""
        self._closed = closed
        self._image_name = image_name
        self._program = program
        self._say = say or (lambda _line: None)
        self._may_start = may_start
        self._image = ""

    def agent_argv(self) -> list[str]:
        """The command that starts the agent inside."""
        return inside.agent_argv("python3")

    async def probe(self, *, deep: bool = False) -> ProbeResult:
        from microclaw.sandbox.probe import probe_backend

        version = ""
        try:
            version = await self._check()
            if deep:
                await self.prepare()
        except SandboxError as error:
            return ProbeResult(self.name, False, str(error), version)
        return await probe_backend(self, version, deep=deep, run=bool(self._image))

    async def prepare(self) -> None:
        wanted = await asyncio.to_thread(image.tag, self._image_name, ARCHITECTURE)
        code, _ = await self._call(command.has_image(wanted))
        if code:
            await self._make_image(wanted)
        self._image = wanted

    async def start(self, spec: RunSpec) -> AppleSandbox:
        spec = admit(spec, self._closed)
        for mount in spec.mounts:
            if "," in str(mount.source):
                raise SpecRefused(f"mount {mount.target}: {mount.source} has a comma, which `container` can't take")
        if not self._image:
            await self.prepare()
        argv = command.run(spec, self._image, os.getuid() or inside.UID, os.getgid() or inside.GID)
        process = await or_undo(asyncio.create_subprocess_exec(
            self._found(), *argv, limit=pipes.CHUNK_BYTES,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        ), lambda process: AppleSandbox(self, spec, process).kill())  # fmt: skip
        return AppleSandbox(self, spec, process)

    async def reap(self, installation: str) -> int:
        code, said = await self._call(command.LIST)
        if code:
            raise SandboxError(f"containers can't be listed: {_last(said)}")
        ours = [
            str(entry["configuration"]["id"]) for entry in json.loads(said)
            if entry["configuration"].get("labels", {}).get(LABEL) == installation
        ]  # fmt: skip
        for name in ours:
            await self.remove(name)
        return len(ours)

    async def clear_away(self, _installation: str) -> int:
        # Its containers are removed by the client process of each (`--rm`), which lives as long as they do.
        return 0

    async def kill(self, name: str) -> None:
        """Kill a container, if it still runs."""
        await self._call(command.kill(name))

    async def remove(self, name: str) -> None:
        """Remove a container, if there is still something of it."""
        await self._call(command.delete(name))

    async def _check(self) -> str:
        """The version, if it is one we can use. :raises EngineMissing: what to do."""
        code, said = await self._call(command.ABOUT)
        version = command.version_of(said)
        if code or version is None:
            raise EngineMissing(f"`{self._program} --version` failed: {_last(said)}; install it again")
        number = ".".join(map(str, version))
        if version < command.VERSION_MIN:
            least = ".".join(map(str, command.VERSION_MIN))
            raise EngineMissing(f"container {number} can't cut a sandbox off the network; install {least} or newer")
        code, said = await self._call(command.STATUS)
        if code and self._may_start:
            log.info("starting container's services")
            code, said = await self._call(command.START)
            if code:
                raise EngineMissing(
                    f"container's services are not running and can't be started: {_last(said)}; "
                    "see what this says: container system start"
                )
        if code:
            raise EngineMissing("container's services are not running; start them: container system start")
        return f"container {number}"

    async def _make_image(self, wanted: str) -> None:
        if self._image_name != OWN_IMAGE:
            self._say(f"pulling image {wanted}")
            code, said = await self._call(command.pull(wanted), BUILD_WAIT_S)
        else:
            code, said = await self._build()
        if code:
            raise EngineMissing(f"image {wanted} can't be made: {_last(said)}; connect to the registry and try again")

    async def _build(self) -> tuple[int, str]:
        base, code, said = OFFICIAL_BASE, 0, ""
        for stage in await asyncio.to_thread(stages, ARCHITECTURE):
            code, said = await self._call(command.has_image(stage.tag))
            if code:
                self._say(f"building image {stage.tag} on {base}")
                folder = await asyncio.to_thread(_unpacked, stage)
                try:
                    code, said = await self._call(command.build(stage.tag, base, folder), BUILD_WAIT_S)
                finally:
                    await asyncio.to_thread(shutil.rmtree, folder)
            if code:
                break
            base = stage.tag
        return code, said

    async def _call(self, argv: list[str], wait_s: float = CALL_WAIT_S) -> tuple[int, str]:
        """Exit code and output. :raises SandboxError: it is missing or does not answer."""
        process = await asyncio.create_subprocess_exec(
            self._found(), *argv, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            out, problems = await asyncio.wait_for(process.communicate(), wait_s)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise SandboxError(f"`{self._program} {argv[0]}` does not answer; look at container system logs") from None
        said = out if process.returncode == 0 else out + problems
        return process.returncode or 0, said.decode("utf-8", "replace")

    def _found(self) -> str:
        path = shutil.which(self._program)
        if path is None:
            raise EngineMissing("Apple's container is not installed; see github.com/apple/container, 1.1.0 or newer")
        return path


class AppleSandbox:
    """A running one."""

    def __init__(self, backend: AppleContainer, spec: RunSpec, process: asyncio.subprocess.Process) -> None:
        self.worker_id = spec.worker_id
        self._backend = backend
        self._name = container_name(spec)
        self._process = process
        self._killing: asyncio.Task[None] | None = None
        self._output = Output(spec.limits.output_bytes, self._kill_soon)
        self._ending = asyncio.create_task(self._end(), name=f"sandbox {spec.worker_id}")

    async def send(self, line: bytes) -> None:
        await pipes.send(self._process, line, self.worker_id)

    async def receive(self) -> bytes | None:
        return await self._output.receive()

    async def kill(self) -> None:
        self._kill_soon()
        await asyncio.shield(self._ending)

    async def wait(self) -> Ended:
        return await asyncio.shield(self._ending)

    def _kill_soon(self) -> None:
        self._output.let_go()
        if self._killing is None and self._process.returncode is None:
            self._killing = asyncio.create_task(self._kill())

    async def _kill(self) -> None:
        # By force and by name: it may not have come so far that there is a process to kill.
        await self._backend.kill(self._name)
        await self._backend.remove(self._name)
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def _end(self) -> Ended:
        try:
            await pipes.drain(self._process, self._output)
            if self._killing:
                await self._killing
        finally:
            await self._backend.remove(self._name)
        code = KILLED if self._killing else pipes.exit_code(self._process)
        # It tells nobody of memory; a kill that was not ours is the machine's, for want of it.
        return Ended(code, code == KILLED and not self._killing, self._output.cut, self._output.stderr_tail)


def _unpacked(stage: Stage) -> str:
    folder = tempfile.mkdtemp(prefix="microclaw-image-")
    with stage.context() as file, tarfile.open(fileobj=file) as archive:
        archive.extractall(folder, filter="data")
    return folder


def _last(said: str) -> str:
    lines = said.strip().splitlines()
    return lines[-1] if lines else "no word"
