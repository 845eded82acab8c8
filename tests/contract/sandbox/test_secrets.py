"""Nothing of the host's environment, processes and files is inside."""

from __future__ import annotations

import json

from microclaw.sandbox.docker_engine import DockerEngine
from microclaw.sandbox.docker_spec import container_name


async def test_ac43_iso02_the_environment_is_what_was_asked(python):
    asked = {"LANG": "C.UTF-8", "ONE": "1 =\n2"}
    seen = await python("import json, os; print(json.dumps(dict(os.environ)))", env=asked)
    found = json.loads(seen.text)
    # These the engines add by themselves.
    for name in ("HOSTNAME", "PWD", "LC_CTYPE", "container", "TERM"):
        found.pop(name, None)
    assert found == {
        "LANG": "C.UTF-8", "ONE": "1 =\n2", "HOME": "/tmp",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    }


async def test_ac43_iso02_a_secret_of_the_host_is_found_nowhere(python, canary, tmp_path, folders):
    """In the environment of every process, in command lines, in the tree that can be read."""
    (tmp_path / "secret").write_text(canary)
    (group,) = folders("group")
    program = """
import os, sys
needle = sys.argv[1][::-1].encode()
hits, looked = [], 0
def look(path, size=1 << 20):
    global looked
    try:
        with open(path, "rb") as file:
            looked += 1
            if needle in file.read(size):
                hits.append(path)
    except OSError:
        pass
for pid in filter(str.isdigit, os.listdir("/proc")):
    if int(pid) != os.getpid():
        look(f"/proc/{pid}/environ"); look(f"/proc/{pid}/cmdline")
    look(f"/proc/{pid}/mountinfo")
look("/proc/self/environ")
for top in ("/etc", "/run", "/tmp", "/workspace", "/var", "/home", "/root", "/dev/shm", "/opt/microclaw/lib"):
    for folder, _, names in os.walk(top):
        # The Python itself: thousands of files that everybody has.
        if folder.startswith(sys.base_prefix + "/lib"):
            continue
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                look(path)
print(hits, looked > 20, len([pid for pid in os.listdir("/proc") if pid.isdigit()]) < 10)
"""
    from microclaw.sandbox.backend import Mount

    seen = await python(program, canary[::-1], mounts=[Mount(group, "/workspace/group", writable=True)])
    assert seen.lines == ["[] True True"], seen


async def test_ac43_iso02_the_first_process_shows_nothing_of_the_host(run, backend, folders, tmp_path):
    (group,) = folders("group")
    from microclaw.sandbox.backend import Mount

    seen = await run(
        ["/bin/sh", "-c", "cat /proc/1/cmdline /proc/1/environ | tr '\\0' '\\n'"],
        mounts=[Mount(group, "/workspace/group", writable=True)],
    )
    assert seen.ended.code == 0
    assert str(tmp_path) not in seen.text
    assert "MC_TEST" not in seen.text


async def test_ac43_iso02_the_engine_knows_no_secret_either(backend, new_spec, canary):
    if not isinstance(backend, DockerEngine):
        # The others keep no record of a run.
        return
    spec = new_spec(["/bin/sh", "-c", "echo up; read line"])
    sandbox = await backend.start(spec)
    try:
        assert await sandbox.receive() == b"up\n"
        client = await backend.connect()
        record = client.inspect_container(container_name(spec))
        assert canary not in json.dumps(record)
        names = {pair.partition("=")[0] for pair in record["Config"]["Env"]}
        assert names <= {"PATH", "HOME", "HOSTNAME", "TERM", "container", "GPG_KEY", "LANG"} | {
            name for name in names if name.startswith("PYTHON")  # of the official image, where that is the base
        }
        assert record["HostConfig"]["LogConfig"]["Type"] == "none"
    finally:
        await sandbox.kill()


async def test_only_the_agents_part_of_microclaw_is_inside(python, backend):
    seen = await python(
        "import os; print(sorted(os.listdir('/opt/microclaw/lib/microclaw'))); "
        "print(os.path.isdir('/opt/microclaw/site/microclaw') and os.listdir('/opt/microclaw/site/microclaw'))"
    )
    assert seen.lines[0] == "['agent', 'core']"
    assert seen.lines[1] in ("False", "[]")
    argv = backend.agent_argv()
    found = await python(f"""
import sys
sys.path[:0] = ['/opt/microclaw/lib', '/opt/microclaw/site']
import msgspec, microclaw.core.worker, microclaw.agent
for name in ("bus", "store", "sandbox", "egress", "broker"):
    try:
        __import__("microclaw." + name)
        print(name, "IMPORTED")
    except ModuleNotFoundError:
        pass
print("done", {argv[0]!r} != "")
""")
    assert found.lines == ["done True"], found
