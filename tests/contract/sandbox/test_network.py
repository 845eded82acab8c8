"""There is no way out but the door."""

from __future__ import annotations

import asyncio
import os
import socket

PROGRAM = """
import errno, os, socket, sys
def tried(what, work):
    try:
        work()
        print(what, "OPEN")
    except OSError as error:
        print(what, "closed", type(error).__name__)
def dial(family, address, kind=socket.SOCK_STREAM):
    with socket.socket(family, kind) as probe:
        probe.settimeout(3)
        probe.connect(address)
port = int(sys.argv[1])
tried("host loopback", lambda: dial(socket.AF_INET, ("127.0.0.1", port)))
tried("host loopback v6", lambda: dial(socket.AF_INET6, ("::1", port)))
tried("internet", lambda: dial(socket.AF_INET, ("192.0.2.1", 443)))
tried("internet v6", lambda: dial(socket.AF_INET6, ("2001:db8::1", 443)))
tried("metadata", lambda: dial(socket.AF_INET, ("169.254.169.254", 80)))
tried("udp", lambda: dial(socket.AF_INET, ("192.0.2.1", 53), socket.SOCK_DGRAM))
tried("dns", lambda: socket.getaddrinfo("example.com", 443))
tried("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
tried("ping", lambda: dial(socket.AF_INET, ("192.0.2.1", 0), socket.SOCK_DGRAM))
tried("packet", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
tried("vsock", lambda: socket.socket(40, socket.SOCK_STREAM))
tried("crypto", lambda: socket.socket(38, socket.SOCK_SEQPACKET))
tried("abstract", lambda: dial(socket.AF_UNIX, sys.argv[2].replace("@", chr(0))))
print("links", sorted(name for _, name in socket.if_nameindex()))
print("sockets", [path for path in ("/var/run/docker.sock", "/run/docker.sock", "/run/podman/podman.sock",
    "/run/dbus/system_bus_socket", "/run/containerd/containerd.sock") if os.path.exists(path)])
"""


async def test_ac37_no_network_by_default(python):
    # Somebody listens on the host, so that "closed" is not only for want of a listener.
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind(f"\0mc-test-{port}")
    abstract.listen()
    try:
        with socket.create_connection(("127.0.0.1", port), 5):
            pass
        seen = await python(PROGRAM, str(port), f"@mc-test-{port}")
    finally:
        abstract.close()
        server.close()
    assert seen.ended.code == 0, seen.ended.stderr_tail
    assert "OPEN" not in seen.text, seen.text
    assert seen.text.count("closed") == 13
    assert "links ['lo']" in seen.text
    assert "sockets []" in seen.text


async def test_ac37_no_door_unless_it_is_given(run):
    seen = await run(["/bin/sh", "-c", "ls -a /run/egress 2>&1 || echo none"])
    assert seen.lines[-1] == "none"


async def test_the_door_is_the_only_socket_and_it_answers(python, folders):
    (door,) = folders("door")
    greeted = asyncio.Event()

    async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello from the door\n")
        await writer.drain()
        writer.close()
        greeted.set()

    server = await asyncio.start_unix_server(greet, door / "egress.sock")
    (door / "egress.sock").chmod(0o666)
    door.chmod(0o755)
    program = """
import os, socket
print(os.listdir("/run/egress"))
door = socket.socket(socket.AF_UNIX); door.connect("/run/egress/egress.sock")
print(door.makefile().readline().strip())
try:
    os.unlink("/run/egress/egress.sock")
except OSError as error:
    print(error.strerror)
"""
    try:
        seen = await python(program, door=door)
    finally:
        server.close()
    assert seen.lines == ["['egress.sock']", "hello from the door", "Read-only file system"], seen
    assert greeted.is_set()


async def test_a_door_opened_again_is_the_same_door(backend, new_spec, folders):
    """The socket is looked up in the folder each time, so a restarted egress service is found."""
    (door,) = folders("door")
    door.chmod(0o755)
    sandbox = await backend.start(new_spec([backend.agent_argv()[0], "-I", "-S", "-u", "-c", """
import socket, sys
for line in sys.stdin:
    try:
        door = socket.socket(socket.AF_UNIX); door.connect("/run/egress/egress.sock")
        print("open")
    except OSError as error:
        print(type(error).__name__)
"""], door=door))  # fmt: skip
    try:
        for _ in range(2):
            server = await asyncio.start_unix_server(lambda _r, writer: writer.close(), door / "egress.sock")
            (door / "egress.sock").chmod(0o666)
            await sandbox.send(b"?\n")
            assert await asyncio.wait_for(sandbox.receive(), 30) == b"open\n"
            server.close()
            (door / "egress.sock").unlink(missing_ok=True)
        await sandbox.send(b"?\n")
        assert await asyncio.wait_for(sandbox.receive(), 30) == b"FileNotFoundError\n"
    finally:
        await sandbox.kill()


async def test_ac37_each_run_has_a_network_of_its_own(backend, new_spec):
    """Shown by number as well: an engine in an empty network of its own would hide that a run shares it."""
    program = "import os; print(*(os.readlink('/proc/self/ns/' + name) for name in {names})); input()"
    program = program.format(names=("net", "ipc", "pid", "mnt", "uts"))
    command = [backend.agent_argv()[0], "-I", "-S", "-c", program]
    sandboxes = [await backend.start(new_spec(command)) for _ in range(2)]
    try:
        first, second = [(await asyncio.wait_for(sandbox.receive(), 30)).split() for sandbox in sandboxes]
        assert len(first) == 5
        assert not set(first) & set(second)
        ours = {os.readlink(f"/proc/self/ns/{name}").encode() for name in ("net", "ipc", "pid", "mnt", "uts")}
        assert not set(first) & ours
    finally:
        await asyncio.gather(*(sandbox.kill() for sandbox in sandboxes))
