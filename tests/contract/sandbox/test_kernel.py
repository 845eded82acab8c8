"""What of the kernel is reached."""

from __future__ import annotations

import json
import os

PROGRAM = r"""
import ctypes, errno, json, os, platform, struct, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
NUMBERS = {
    "x86_64": dict(add_key=248, request_key=249, keyctl=250, bpf=321, perf_event_open=298, userfaultfd=323,
        io_uring_setup=425, ptrace=101, process_vm_readv=310, mount=165, umount2=166, pivot_root=155, chroot=161,
        setns=308, unshare=272, kexec_load=246, init_module=175, delete_module=176, reboot=169, swapon=167,
        open_by_handle_at=304, name_to_handle_at=303, acct=163, settimeofday=164, clock_settime=227, syslog=103,
        iopl=172, ioperm=173, fsopen=430, open_tree=428, move_mount=429, pidfd_getfd=438, sethostname=170,
        quotactl=179, fanotify_init=300, move_pages=279, clone3=435, openat2=437, newer=4000),
    "aarch64": dict(add_key=217, request_key=218, keyctl=219, bpf=280, perf_event_open=241, userfaultfd=282,
        io_uring_setup=425, ptrace=117, process_vm_readv=270, mount=40, umount2=39, pivot_root=41, chroot=51,
        setns=268, unshare=97, kexec_load=104, init_module=105, delete_module=106, reboot=142, swapon=224,
        open_by_handle_at=265, name_to_handle_at=264, acct=89, settimeofday=170, clock_settime=112, syslog=116,
        fsopen=430, open_tree=428, move_mount=429, pidfd_getfd=438, sethostname=161, quotactl=60,
        fanotify_init=262, move_pages=239, clone3=435, openat2=437, newer=4000),
}[platform.machine()]
def call(number, *args):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_ulong(arg) for arg in args + (0,) * (6 - len(args))))
    return "ok" if result >= 0 else errno.errorcode.get(ctypes.get_errno(), "?")
found = {name: call(number) for name, number in NUMBERS.items()}
CLONE = {"x86_64": 56, "aarch64": 220}[platform.machine()]
SIGCHLD = 17
for name, flag in (("user", 0x10000000), ("net", 0x40000000), ("mount", 0x20000), ("pid", 0x20000000)):
    found["clone new " + name] = call(CLONE, flag | SIGCHLD)
PERSONALITY = {"x86_64": 135, "aarch64": 92}[platform.machine()]
found["personality ask"] = call(PERSONALITY, 0xffffffff)
found["personality no randomness"] = call(PERSONALITY, 0x0040000)
import fcntl
master, slave = os.openpty()
for name, request in (("TIOCSTI", 0x5412), ("TIOCLINUX", 0x541C)):
    for upper in (0, 1 << 32):
        ctypes.set_errno(0)
        IOCTL = {"x86_64": 16, "aarch64": 29}[platform.machine()]
        found[f"{name} {upper >> 32}"] = call(IOCTL, slave, request | upper, ctypes.addressof(ctypes.c_char(b"x")))
found["TIOCGWINSZ"] = call({"x86_64": 16, "aarch64": 29}[platform.machine()], slave, 0x5413,
    ctypes.addressof(ctypes.create_string_buffer(8)))
status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
found["status"] = {name: status[name] for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb", "NoNewPrivs",
    "Seccomp", "Uid", "Gid")}
# An ordinary life goes on: threads, programs, pipes, time.
import threading
thread = threading.Thread(target=lambda: found.update(thread="ran")); thread.start(); thread.join()
found["program"] = subprocess.run(["/bin/sh", "-c", "echo ran | cat"], capture_output=True, text=True).stdout.strip()
print(json.dumps(found))
"""


async def test_iso08_refused_system_calls(python):
    seen = await python(PROGRAM)
    assert seen.ended.code == 0, seen.ended.stderr_tail
    found = json.loads(seen.text)
    status = found.pop("status")
    assert found.pop("thread") == "ran"
    assert found.pop("program") == "ran"
    assert found.pop("personality ask") == "ok"
    assert found.pop("TIOCGWINSZ") == "ok"
    assert found.pop("clone3") == "ENOSYS"
    assert found.pop("newer") == "ENOSYS"
    assert found.pop("openat2") == "ENOSYS"
    assert {name: said for name, said in found.items() if said != "EPERM"} == {}
    assert {status[name].strip("0") for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")} == {""}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert "0" not in status["Uid"].split()
    assert "0" not in status["Gid"].split()


async def test_iso08_another_abi_ends_the_process(python):
    """x32 has its own numbers for the same calls: a filter by number alone would let them through."""
    seen = await python("""
import ctypes, os, platform, signal
if platform.machine() != "x86_64":
    print("only x86_64 has it", flush=True)
    os._exit(0)
pid = os.fork()
if pid == 0:
    ctypes.CDLL(None).syscall(ctypes.c_long(0x40000000 + 39))
    os._exit(0)
_, status = os.waitpid(pid, 0)
print("killed by", signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "nobody")
""")
    assert seen.lines in (["killed by SIGSYS"], ["only x86_64 has it"]), seen


async def test_iso08_processes_of_the_host_are_not_seen(python):
    seen = await python(f"""
import os
print(os.path.exists("/proc/{os.getpid()}") and {os.getpid()} > 50)
print(len([pid for pid in os.listdir("/proc") if pid.isdigit()]) < 8)
""")
    assert seen.lines == ["False", "True"], seen


async def test_iso08_memory_and_log_of_the_kernel_are_closed(python):
    """Its memory, its addresses and its messages; and there is no engine's socket to ask for more."""
    seen = await python("""
import os
def read(path):
    try:
        with open(path, "rb") as file:
            return file.read(64)
    except OSError:
        return b""
for path in ("/proc/kcore", "/dev/mem", "/dev/kmem", "/dev/kmsg", "/proc/kmsg", "/proc/1/mem", "/proc/timer_list",
             "/sys/firmware/dmi/tables/DMI", "/sys/kernel/security/lockdown", "/proc/keys"):
    if read(path).strip(b"\\0"):
        print(path, "READ")
for line in read("/proc/kallsyms").splitlines()[:1]:
    if line.split()[0].strip(b"0"):
        print("ADDRESSES")
for path in ("/var/run/docker.sock", "/run/docker.sock", "/run/podman/podman.sock", "/run/containerd/containerd.sock",
             "/run/dbus/system_bus_socket", "/run/systemd/private", os.environ.get("DOCKER_HOST", "/no/such")[7:]):
    if os.path.exists(path):
        print(path, "THERE")
print("done")
""")
    assert seen.lines == ["done"], seen
