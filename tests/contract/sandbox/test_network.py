"""There is no way out but the door."""

from __future__ import annotations

import asyncio
import errno
import os
import socket

PROGRAM = """
import errno, os, socket, sys
def tried(what, work):
    try:
        work()
        print(what, "OPEN")
    except OSError as error:
        print(what, "closed", type(error).__name__ if isinstance(error, socket.gaierror) else error.errno)
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
for address in sys.argv[3:]:
    tried("host at " + address, lambda: dial(socket.AF_INET, (address, port)))
print("links", sorted(name for _, name in socket.if_nameindex()))
print("sockets", [path for path in ("/var/run/docker.sock", "/run/docker.sock", "/run/podman/podman.sock",
    "/run/dbus/system_bus_socket", "/run/containerd/containerd.sock") if os.path.exists(path)])
"""


async def test_ac37_iso03_no_network_by_default(python):
    # Somebody listens on all addresses of the host, so that "closed" is not only for want of a listener. Among them
    # are those by which containers of a bridged network reach it.
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "0.0.0.0", 0)
    port = server.sockets[0].getsockname()[1]
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind(f"\0mc-test-{port}")
    abstract.listen()
    addresses = sorted({*addresses_of_this_machine(), "172.17.0.1", "10.88.0.1", "10.0.2.2"})
    try:
        with socket.create_connection(("127.0.0.1", port), 5):
            pass
        seen = await python(PROGRAM, str(port), f"@mc-test-{port}", *addresses)
    finally:
        abstract.close()
        server.close()
    assert seen.ended.code == 0, seen.ended.stderr_tail
    assert "OPEN" not in seen.text, seen.text
    assert seen.text.count("closed") == 13 + len(addresses)
    assert f"host loopback closed {errno.ECONNREFUSED}" in seen.lines
    assert "dns closed gaierror" in seen.lines
    for what in ("internet", "metadata", "udp", "host at 172.17.0.1"):
        assert f"{what} closed {errno.ENETUNREACH}" in seen.lines, seen.text
    assert "links ['lo']" in seen.text
    assert "sockets []" in seen.text


async def test_ac37_iso03_no_run_reaches_another(backend, new_spec, python):
    """On its loopback, by an abstract name, by shared memory, by its process number."""
    listening = await backend.start(new_spec([backend.agent_argv()[0], "-I", "-S", "-u", "-c", """
import os, socket
one = socket.socket(); one.bind(("0.0.0.0", 0)); one.listen()
two = socket.socket(socket.AF_UNIX); two.bind(chr(0) + "mc-neighbour"); two.listen()
open("/dev/shm/mc-neighbour", "w").close(); open("/tmp/mc-neighbour", "w").close()
print(one.getsockname()[1])
input()
"""]))
    try:
        port = int(await asyncio.wait_for(listening.receive(), 30))
        seen = await python(f"""
import errno, os, socket
for family, address in ((socket.AF_INET, ("127.0.0.1", {port})), (socket.AF_UNIX, chr(0) + "mc-neighbour")):
    try:
        socket.socket(family).connect(address)
        print("OPEN")
    except OSError as error:
        print(errno.errorcode[error.errno])
print(os.listdir("/dev/shm"), os.listdir("/tmp"))
print(all(os.stat("/proc/" + pid).st_uid == os.getuid() for pid in os.listdir("/proc") if pid.isdigit() and pid != "1"))
""")
        assert seen.lines == ["ECONNREFUSED", "ECONNREFUSED", "[] []", "True"], seen
    finally:
        await listening.kill()


def addresses_of_this_machine() -> set[str]:
    """Those by which it is reached from elsewhere; they differ where tests run."""
    found = {address[4][0] for address in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent: it only says which of our addresses would be used.
            probe.connect(("192.0.2.1", 9))
            found.add(probe.getsockname()[0])
        except OSError:
            pass
    return {address for address in found if not address.startswith("127.")}


async def test_ac37_no_door_unless_it_is_given(run):
    seen = await run(["/bin/sh", "-c", "ls -a /run/egress 2>&1 || echo none"])
    assert seen.lines[-1] == "none"


async def test_iso03_the_door_is_the_only_socket_and_it_answers(python, folders):
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


async def test_iso10_a_door_opened_again_is_the_same_door(backend, new_spec, folders):
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


async def test_ac37_iso03_each_run_has_a_network_of_its_own(backend, new_spec):
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
