"""Runs inside a sandbox (its text is handed to the Python there, so it imports nothing of ours): tries what must not
work and prints what came of it, one JSON object `{protection: [held, what was seen]}`.

Arguments: limit of /tmp in bytes, of processes, of processors; names of the environment variables that may be there.
"""

# A program of its own with few imports, which prints its result:
# ruff: noqa: PTH108, PTH118, PTH123, S108, SIM115, T201

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import platform
import resource
import signal
import socket
import sys
import time

#: Of these architectures we know the numbers: (add_key, bpf, io_uring_setup, userfaultfd, perf_event_open).
NUMBERS = {"x86_64": (248, 321, 425, 323, 298), "aarch64": (217, 280, 425, 282, 241)}
CLONE_NEWUSER = 0x10000000
#: How long the processors are measured.
BUSY_S = 1.5
#: One that is bounded takes at most so much more than its share (`watchdog` lets it save up a burst).
CPU_SLACK = 0.4
#: Nobody's address (RFC 5737): a network that exists would let a packet go.
NOWHERE = ("192.0.2.1", 80)


def main(tmp_bytes: int, pids: int, cpus: float, names: list[str]) -> dict[str, tuple[bool, str]]:
    status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
    caps = {status.get(name, "?") for name in ("CapEff", "CapPrm", "CapBnd")}
    variables = set(os.environ) - set(names)
    core, files = resource.getrlimit(resource.RLIMIT_CORE)[1], resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    size = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    return {
        "user": (os.getuid() != 0, f"uid {os.getuid()}"),
        "capabilities": (all(set(cap) == {"0"} for cap in caps), f"CapEff {status.get('CapEff', '?')}"),
        "new privileges": (status.get("NoNewPrivs") == "1", f"NoNewPrivs {status.get('NoNewPrivs', '?')}"),
        "system calls": system_calls(status.get("Seccomp", "?")),
        "network": network(),
        "read-only root": read_only(),
        "environment": (not variables, "nothing of the host" if not variables else f"also {sorted(variables)}"),
        "tmp": tmp(tmp_bytes),
        "rlimits": (
            core == 0 and size != resource.RLIM_INFINITY, f"core {core}, open files {files}, largest file {size}"
        ),
        "processes": processes(pids),
        "cpu": cpu(cpus),
        "folders": folders(),
        "door": door(),
    }


def system_calls(mode: str) -> tuple[bool, str]:
    libc = ctypes.CDLL(None, use_errno=True)
    allowed: list[int | str] = []
    for number in NUMBERS.get(platform.machine(), ()):
        ctypes.set_errno(0)
        if libc.syscall(number, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS):
            allowed.append(number)
    ctypes.set_errno(0)
    if libc.unshare(CLONE_NEWUSER) != -1 or ctypes.get_errno() != errno.EPERM:
        allowed.append("unshare")
    return mode == "2" and not allowed, f"seccomp mode {mode}" + (f", not refused: {allowed}" if allowed else "")


def network() -> tuple[bool, str]:
    links = {name for _, name in socket.if_nameindex()}
    seen = f"only {', '.join(sorted(links)) or 'nothing'}"
    with socket.socket() as probe:
        probe.settimeout(3)
        code = probe.connect_ex(NOWHERE)
    held = links <= {"lo"} and code in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN)
    return held, f"{seen}; {errno.errorcode.get(code, code)}"


def read_only() -> tuple[bool, str]:
    # By the mount first: what is only somebody else's file is open to whoever gets that somebody's rights.
    mounted = [folder for folder in ("/", "/usr", "/etc") if not os.statvfs(folder).f_flag & os.ST_RDONLY]
    if mounted:
        return False, f"mounted writable: {mounted}"
    written = []
    for folder in ("/", "/usr", "/etc", "/opt", "/dev", "/proc/sys/kernel", "/var", "/workspace", "/run/egress"):
        with contextlib.suppress(OSError):
            path = os.path.join(folder, ".microclaw-probe")
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
            written.append(folder)
            os.unlink(path)
    return not written, "nothing can be written" if not written else f"can be written: {written}"


def tmp(limit_bytes: int) -> tuple[bool, str]:
    written, block = 0, b"x" * (256 << 10)
    try:
        with open("/tmp/fill", "wb", buffering=0) as file:
            while written <= limit_bytes + (8 << 20):
                written += file.write(block)
    except OSError as error:
        os.unlink("/tmp/fill")
        return error.errno == errno.ENOSPC, f"full at {written >> 20} MiB"
    os.unlink("/tmp/fill")
    return False, f"{written >> 20} MiB written, the limit is {limit_bytes >> 20}"


def processes(limit: int) -> tuple[bool, str]:
    children: list[int] = []
    try:
        while len(children) <= limit * 2:
            pid = os.fork()
            if pid == 0:
                time.sleep(60)
                os._exit(0)
            children.append(pid)
        return False, f"{len(children)} started, the limit is {limit}"
    except OSError:
        return len(children) <= limit, f"no more after {len(children)}"
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def cpu(limit: float) -> tuple[bool, str]:
    count = int(limit) + 2
    start = time.monotonic()
    for _ in range(count):
        if os.fork() == 0:
            while time.monotonic() - start < BUSY_S:
                pass
            os._exit(0)
    for _ in range(count):
        os.wait()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    share = (used.ru_utime + used.ru_stime) / (time.monotonic() - start)
    return share <= limit + CPU_SLACK, f"{share:.2f} of {limit:g} processors"


def folders() -> tuple[bool, str]:
    """What was brought along to write can be written, what was brought to read can be read and not written."""
    try:
        with open("/workspace/group/probe", "w") as file:
            file.write("written")
        with open("/workspace/global/probe") as file:
            file.read()
    except OSError as error:
        return False, f"{error.strerror}: {error.filename}"
    try:
        open("/workspace/global/other", "w").close()
    except OSError as error:
        return True, f"writable and read-only hold ({errno.errorcode.get(error.errno or 0)})"
    return False, "a read-only folder can be written"


def door() -> tuple[bool, str]:
    """The socket of the egress service is reached."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(3)
        try:
            probe.connect("/run/egress/egress.sock")
        except OSError as error:
            return False, f"socket in a mounted folder: {error.strerror}"
    return True, "the egress socket can be reached"


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:])))
