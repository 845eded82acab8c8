"""Docker and Podman, by the API they share.

Calls of the engine run in threads of our own; a running container's streams are read by the event loop. A container
has no network, no capability, a read-only root, our seccomp profile and explicit limits; it logs nowhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import struct
import tempfile
import weakref
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from microclaw.sandbox import image, inside
from microclaw.sandbox.backend import Ended, EngineMissing, ProbeResult, RunSpec, SandboxError
from microclaw.sandbox.docker_spec import LABEL, WORKER_LABEL, container_name, container_settings
from microclaw.sandbox.engine_quirks import DOCKER, PODMAN, Quirks, quirks_of
from microclaw.sandbox.engine_sockets import sockets
from microclaw.sandbox.giving_up import or_undo
from microclaw.sandbox.image_content import OWN_IMAGE
from microclaw.sandbox.output import Output
from microclaw.sandbox.owner import hand_over
from microclaw.sandbox.seccomp import docker_json
from microclaw.sandbox.spec import admit

if TYPE_CHECKING:
    from docker import APIClient

T = TypeVar("T")

#: One call of the engine; building an image sets no limit.
CALL_WAIT_S = 60
#: How long a container may live on after its streams ended.
END_WAIT_S = 10
#: Calls of the engine at the same time.
THREADS = 8
#: One read from the engine.
CHUNK_BYTES = 64 << 10
#: The exit code of a killed process, as a shell says it.
KILLED = 137

#: Before each piece of output: stream (1 = standard output, 2 = error), three zero bytes, length.
_HEADER = struct.Struct(">BxxxI")
_STDOUT = 1


class DockerEngine:
    """The backend. `name` says where the engine is looked for: `docker` or `podman`."""

    def __init__(
        self, name: str = "docker", closed: Collection[Path] = (), *, image_name: str = OWN_IMAGE,
        socket_path: Path | None = None, say: image.Say | None = None, installation: str = "",
    ) -> None:  # fmt: skip
        """:param closed: folders of this installation that no run may see.
        :param socket_path: the engine's socket; None = where engines of this name usually listen.
        :param say: told the lines of an image being made.
        :param installation: for whom images are built; a new one takes the place of the old. "" = nobody: all stay."""
        self.name = name
        self.image_name = image_name
        self.version = ""
        self._closed = closed
        self._socket_path = socket_path
        self._installation = installation
        self._say = say or (lambda _line: None)
        self._quirks: Quirks = DOCKER
        self._client: APIClient | None = None
        self._arch = ""
        self._profile_file: Path | None = None
        self._image = ""
        #: Workers whose containers are there or about to be.
        self._alive: set[str] = set()
        #: A call failed: there may be a container of ours that nobody has any more.
        self._in_doubt = False
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix=name)

    @property
    def image(self) -> str:
        """The image that runs are made from; "" before `prepare`."""
        return self._image

    def agent_argv(self) -> list[str]:
        """The command that starts the agent inside."""
        return inside.agent_argv("python3")

    async def probe(self, *, deep: bool = False) -> ProbeResult:
        from microclaw.sandbox.probe import probe_backend

        try:
            await self.connect()
            if deep:
                await self.prepare()
        except SandboxError as error:
            return ProbeResult(self.name, False, str(error), self.version)
        # Making the image takes its time: without it the quick probe asks the engine alone.
        runs = deep or await self.has_image()
        return await probe_backend(self, self.version, deep=deep, run=runs)

    async def has_image(self) -> bool:
        """The image is there; `prepare` would have nothing to do."""
        client = await self.connect()

        def look() -> str:
            wanted = image.tag(self.image_name, self._arch)
            return wanted if image.exists(client, wanted) else ""

        self._image = await self.call(look)
        return bool(self._image)

    async def prepare(self) -> None:
        client = await self.connect()
        self._image = await self.call(
            lambda: image.ensure(client, self.image_name, self._arch, self._say, self._installation)
        )

    async def start(self, spec: RunSpec) -> DockerSandbox:
        spec = admit(spec, self._closed)
        client = await self.connect()
        if not self._image:
            await self.prepare()
        uid, gid = user()
        for mount in spec.mounts:
            if mount.writable:
                hand_over(mount.source, uid, gid)
        settings = container_settings(spec, self._image, f"{uid}:{gid}", self._quirks, self._profile())
        sources = [mount.source for mount in spec.mounts] + ([spec.door] if spec.door else [])

        async def start() -> DockerSandbox:
            self._alive.add(spec.worker_id)
            try:
                container, stream = await self.call(lambda: _start(client, container_name(spec), settings, sources))
                reader, writer = await asyncio.open_connection(sock=stream, limit=CHUNK_BYTES)
            except BaseException:
                self._alive.discard(spec.worker_id)
                raise
            return DockerSandbox(self, spec, container, reader, writer)

        return await or_undo(start(), DockerSandbox.kill)

    async def reap(self, installation: str) -> int:
        client = await self.connect()

        def remove_all() -> int:
            left = client.containers(all=True, quiet=True, filters={"label": f"{LABEL}={installation}"})
            for container in left:
                _remove(client, container["Id"])
            return len(left)

        return await self.call(remove_all)

    async def clear_away(self, installation: str) -> int:
        if not self._in_doubt:
            return 0
        client = await self.connect()
        # Before the look: what fails from now on is in doubt again.
        self._in_doubt = False

        def remove_left() -> int:
            left = [
                container["Id"]
                for container in client.containers(all=True, filters={"label": f"{LABEL}={installation}"})
                if container["Labels"].get(WORKER_LABEL) not in self._alive
            ]
            for container in left:
                _remove(client, container)
            return len(left)

        return await self.call(remove_left)

    async def connect(self) -> APIClient:
        """The engine's client, once it has answered.

        :raises EngineMissing: no engine of this name answers, or it is not one for us.
        """
        if self._client is None:
            wanted = [self._socket_path] if self._socket_path else sockets(self.name, os.environ)
            # Looked at before the client is loaded, which is large: where no engine is installed none is.
            there = [path for path in wanted if path.exists()]
            if not there:
                raise EngineMissing(f"{self.name} is not running here; install and start it")
            self._client = await self.call(lambda: self._connect(there))
        return self._client

    async def call(self, work: Callable[[], T]) -> T:
        """Do it in a thread.

        :raises SandboxError: the engine refused or did not answer in time, one line why.
        :raises EngineMissing: it is not there any more, or (yet) not again; nor is the image that it had.
        """
        from docker.errors import DockerException, ImageNotFound
        from requests.exceptions import ConnectionError as Gone
        from requests.exceptions import RequestException

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except ImageNotFound as error:
            # Somebody removed it: the next run has it made again.
            self._image = ""
            raise EngineMissing(f"{self._quirks.name}: {image.one_line(error)}; it is made again") from error
        except Gone as error:
            self._in_doubt = True
            # Slow it may be called too, in the middle of an answer.
            if "timed out" in str(error):
                raise SandboxError(f"{self._quirks.name}: {image.one_line(error)}") from error
            raise EngineMissing(f"{self._quirks.name} does not answer any more; start it again") from error
        except (DockerException, RequestException) as error:
            self._in_doubt = True
            raise SandboxError(f"{self._quirks.name}: {image.one_line(error)}") from error

    async def finish(self, worker_id: str, container: str, *, killed: bool) -> tuple[int, bool]:
        """Wait until a container whose streams have ended has ended too, and remove it.

        Returns its exit code and whether it ran out of memory."""
        try:
            client = await self.connect()
            return await self.call(lambda: _finish(client, container, self._quirks, killed=killed))
        finally:
            self._alive.discard(worker_id)

    async def end(self, container: str) -> None:
        """Kill it, if it still runs."""
        client = await self.connect()
        await self.call(lambda: _kill(client, container))

    def _profile(self) -> str:
        if not self._quirks.seccomp_by_file:
            return docker_json()
        if self._profile_file is None:
            # In a folder of ours alone, which goes when we do.
            folder = tempfile.mkdtemp(prefix="microclaw-seccomp-")
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            self._profile_file = Path(folder, "profile.json")
            self._profile_file.write_text(docker_json())
        return str(self._profile_file)

    def _connect(self, places: Sequence[Path]) -> APIClient:
        from docker import APIClient
        from docker.errors import DockerException

        tried: list[str] = []
        for path in places:
            try:
                client = APIClient(base_url=f"unix://{path}", version="auto", timeout=CALL_WAIT_S, num_pools=THREADS)
                about = client.version()
                self._check(client.info())
            except DockerException as error:
                tried.append(f"{path}: {image.one_line(error)}")
                continue
            quirks = quirks_of(about)
            if self.name == "podman" and quirks is not PODMAN:
                tried.append(f"{path} is {quirks.name}")
                continue
            self._quirks, self._arch = quirks, str(about["Arch"])
            self.version = f"{quirks.name} {about['Version']}"
            return client
        raise EngineMissing(
            f"{self.name} can't be used ({'; '.join(tried)}); start it, or check that you may use its socket"
        )

    def _check(self, info: dict[str, Any]) -> None:
        options = [str(option) for option in info.get("SecurityOptions") or ()]
        if not any("seccomp" in option for option in options):
            raise EngineMissing(f"{self.name} runs on a kernel without seccomp; use another kernel or machine")
        if any("rootless" in option for option in options) and os.getuid() != 0:
            raise EngineMissing(
                f"{self.name} runs rootless, where a container's user can't write its folders; "
                "use bubblewrap, or the engine of the system"
            )


class DockerSandbox:
    """A running container."""

    def __init__(
        self, engine: DockerEngine, spec: RunSpec, container: str,
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter,
    ) -> None:  # fmt: skip
        self.worker_id = spec.worker_id
        self._engine = engine
        self._container = container
        self._reader = reader
        self._writer = writer
        self._killing: asyncio.Task[None] | None = None
        self._ended = False
        self._output = Output(spec.limits.output_bytes, self._kill_soon)
        self._ending = asyncio.create_task(self._end(), name=f"sandbox {spec.worker_id}")

    async def send(self, line: bytes) -> None:
        if self._killing or self._ended:
            raise SandboxError(f"worker {self.worker_id} has ended; start another")
        try:
            self._writer.write(line)
            await self._writer.drain()
        except (ConnectionError, RuntimeError) as error:
            raise SandboxError(f"worker {self.worker_id} no longer reads; start another") from error

    async def receive(self) -> bytes | None:
        return await self._output.receive()

    async def kill(self) -> None:
        self._kill_soon()
        await asyncio.shield(self._ending)

    async def wait(self) -> Ended:
        return await asyncio.shield(self._ending)

    def _kill_soon(self) -> None:
        # From here on the stream is emptied as it comes: the engine does not kill what it can't rid of its output.
        self._output.let_go()
        if self._killing is None and not self._ended:
            self._killing = asyncio.create_task(self._engine.end(self._container))

    async def _end(self) -> Ended:
        try:
            await self._read()
            if self._killing:
                await self._killing
        finally:
            self._ended = True
            self._output.end()
            self._writer.close()
            code, out_of_memory = await self._engine.finish(
                self.worker_id, self._container, killed=self._killing is not None
            )
        return Ended(code, out_of_memory, self._output.cut, self._output.stderr_tail)

    async def _read(self) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                stream, left = _HEADER.unpack(await self._reader.readexactly(_HEADER.size))
                while left:
                    chunk = await self._reader.read(min(left, CHUNK_BYTES))
                    if not chunk:
                        return
                    left -= len(chunk)
                    if stream == _STDOUT:
                        await self._output.stdout(chunk)
                    else:
                        self._output.stderr(chunk)


def user() -> tuple[int, int]:
    """Who a container's processes are: whoever we are, so that they can write the folders that are ours. Where we are
    root they are `inside.UID`, and the folders are handed over to it."""
    return (os.getuid(), os.getgid()) if os.getuid() else (inside.UID, inside.GID)


def _start(
    client: APIClient, name: str, settings: dict[str, Any], sources: Sequence[Path]
) -> tuple[str, socket.socket]:
    """The running container's id and the stream of its three channels.

    :raises SandboxError: one of the folders it is to see is not there any more.
    """
    from docker.errors import ImageNotFound, NotFound

    # At the last moment: Docker refuses to bind what is not there, Podman makes it, as root.
    if gone := [str(source) for source in sources if not source.exists()]:
        raise SandboxError(f"{', '.join(gone)} is gone since the run was looked at; start it again")
    try:
        container = str(client.create_container_from_config(settings, name)["Id"])  # type: ignore[no-untyped-call]
    except NotFound as error:
        # Only the image can be what is not there; engines say it in different words.
        raise ImageNotFound(f"the image {settings['Image']} is gone") from error
    try:
        # Before it starts, so that nothing it says is missed.
        attached = client.attach_socket(container, {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
        # A stream of our own, without the time-out that the client's calls have.
        stream = socket.socket(fileno=os.dup(attached.fileno()))
        stream.setblocking(False)
        attached.close()
        client.start(container)
    except BaseException:
        _remove(client, container)
        raise
    return container, stream


def _kill(client: APIClient, container: str) -> None:
    from docker.errors import APIError, NotFound

    try:
        client.kill(container)
    except APIError:
        # Not there or not running any more is what was wanted; engines say it in different ways.
        try:
            running = client.inspect_container(container)["State"]["Running"]
        except NotFound:
            return
        if running:
            raise


def _remove(client: APIClient, container: str) -> None:
    from docker.errors import APIError

    try:
        client.remove_container(container, v=True, force=True)
    except APIError as error:
        # Gone, or somebody else is just removing it.
        if error.status_code not in (404, 409):
            raise


def _finish(client: APIClient, container: str, quirks: Quirks, *, killed: bool) -> tuple[int, bool]:
    from docker.errors import NotFound
    from requests.exceptions import ConnectionError as Slow
    from requests.exceptions import ReadTimeout

    try:
        try:
            code = int(client.wait(container, timeout=END_WAIT_S)["StatusCode"])
        except (ReadTimeout, Slow):
            # It closed its output and went on: nobody can talk with it any more.
            _kill(client, container)
            code = int(client.wait(container, timeout=CALL_WAIT_S)["StatusCode"])
        told = bool(client.inspect_container(container)["State"].get("OOMKilled"))
    except NotFound:
        return KILLED, False
    finally:
        _remove(client, container)
    if not quirks.tells_out_of_memory:
        told = code == KILLED and not killed
    return code, told and code == KILLED
