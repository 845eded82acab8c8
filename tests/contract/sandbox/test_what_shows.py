"""What can be seen of the host from inside is what `docs/security.md` names, and no more."""

from __future__ import annotations

import json
import os
import pwd
import socket
from pathlib import Path

from microclaw.sandbox.backend import Mount

#: Facts of the machine that a shared kernel shows to everybody.
SHOWN = ("/proc/cpuinfo", "/proc/meminfo", "/proc/cmdline", "/proc/version", "/proc/self/mountinfo")
PROGRAM = """
import json, os, platform, pwd, socket, sys
def read(path):
    try:
        with open(path, errors="replace") as file:
            return file.read(1 << 16)
    except OSError:
        return None
print(json.dumps({
    "name": [socket.gethostname(), platform.node(), read("/proc/sys/kernel/hostname"), read("/etc/hostname")],
    "users": sorted(user.pw_name for user in pwd.getpwall()),
    "there": [path for path in ("/etc/machine-id", "/var/lib/dbus/machine-id", "/etc/shadow", "/root/.bashrc",
        "/home", "/var/log", "/etc/resolv.conf", "/etc/fstab", "/etc/ssh") if (os.path.isdir(path) and
        os.access(path, os.R_OK) and os.listdir(path)) or (os.path.isfile(path) and read(path))],
    "serials": [path for path in ("/sys/class/dmi/id/product_serial", "/sys/class/dmi/id/product_uuid") if read(path)],
    "links": sorted(os.listdir("/sys/class/net")) if os.path.isdir("/sys/class/net") else ["lo"],
    "shown": {path: bool(read(path)) for path in sys.argv[1:]},
    "mounts": read("/proc/self/mountinfo"),
}))
"""


async def test_iso13_of_the_host_no_more_shows_than_a_shared_kernel_tells(python, folders):
    (group,) = folders("group")
    seen = await python(PROGRAM, *SHOWN, mounts=[Mount(group, "/workspace/group", writable=True)])
    assert seen.ended.code == 0, seen.ended.stderr_tail
    found = json.loads(seen.text)
    ours = {socket.gethostname(), Path("/proc/sys/kernel/hostname").read_text().strip()} - {"", "localhost"}
    assert not ours & {name.strip() for name in found["name"] if name}, found["name"]
    people = {user.pw_name for user in pwd.getpwall() if 1000 <= user.pw_uid < 60000} - {"agent", "node", "user"}
    assert not people & set(found["users"])
    assert set(found["there"]) <= {"/etc/resolv.conf"}, found["there"]
    assert found["serials"] == []
    assert found["links"] == ["lo"]


async def test_iso13_what_does_show_is_in_the_document(python, folders):
    """A wall that is not there is said; should one come to be there, the document can lose a line."""
    (group,) = folders("group")
    found = json.loads((await python(PROGRAM, *SHOWN, mounts=[Mount(group, "/workspace/group", writable=True)])).text)
    text = (Path(__file__).parents[3] / "docs" / "security.md").read_text()
    for path, shown in found["shown"].items():
        assert not shown or f"`{path}`" in text or f"`{Path(path).name}`" in text, path
    assert os.fspath(group.parent) not in found["mounts"] or "host paths" in text
