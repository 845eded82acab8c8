"""What can be read and written, and how what was written is read outside."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from microclaw.agent.beneath import write_beneath
from microclaw.sandbox import reading as reading_module
from microclaw.sandbox.backend import Limits, Mount, SandboxError, SpecRefused
from microclaw.sandbox.bubblewrap import Bubblewrap
from microclaw.sandbox.reading import FileRefused, read_file
from microclaw.sandbox.rlimits import FILE_BYTES_MAX
from microclaw.sandbox.spec import admit as spec_admit


async def test_iso01_outside_of_the_mounts_nothing_can_be_written(python):
    """By the mount, not only by whose the files are: a hole that gives other users' rights opens nothing."""
    seen = await python("""
import errno, os
READ_ONLY = ("/", "/usr", "/usr/bin", "/etc", "/opt/microclaw/lib", "/opt", "/var", "/home", "/workspace")
for folder in (*READ_ONLY, "/dev", "/proc/sys/kernel", "/sys", "/run", "/root"):
    if not os.path.isdir(folder):
        continue
    if folder in READ_ONLY and not os.statvfs(folder).f_flag & os.ST_RDONLY:
        print(folder, "MOUNTED WRITABLE")
    try:
        os.close(os.open(folder + "/probe", os.O_CREAT | os.O_WRONLY))
        print(folder, "WRITTEN")
    except OSError as error:
        if folder in READ_ONLY and error.errno != errno.EROFS:
            print(folder, errno.errorcode[error.errno])
for path in ("/proc/sys/kernel/hostname", "/proc/sys/vm/overcommit_memory", "/proc/sysrq-trigger", "/etc/passwd",
             "/proc/sys/kernel/core_pattern"):
    try:
        open(path, "w").close()
        print(path, "OPENED")
    except OSError:
        pass
print("done")
""")
    assert seen.lines == ["done"], seen


async def test_iso01_what_lies_in_tmp_is_no_program(run, backend):
    """Bubblewrap can't say so of a folder that it makes: what runs from there has the same walls as from anywhere."""
    seen = await run(["/bin/sh", "-c", "cp /bin/true /tmp/program && chmod 755 /tmp/program && /tmp/program; echo $?"])
    assert seen.lines == ["0" if isinstance(backend, Bubblewrap) else "126"], seen


async def test_iso01_limits_of_one_process(python, folders):
    """No core file, no file beyond the largest, no more open files; and none of them can be raised."""
    (group,) = folders("group")
    program = """
import errno, os, resource, signal, sys
os.chdir("/workspace/group")
pid = os.fork()
if pid == 0:
    os.abort()
_, status = os.waitpid(pid, 0)
print(os.WTERMSIG(status) == signal.SIGABRT, os.WCOREDUMP(status), os.listdir())
with open("large", "wb") as file:
    try:
        file.truncate(int(sys.argv[1]) + 1)
        print("NO END")
    except OSError as error:
        print(errno.errorcode[error.errno])
held = []
try:
    while True:
        held.append(os.dup(0))
except OSError as error:
    print(errno.errorcode[error.errno], len(held) + 3)
for handle in held: os.close(handle)
for what in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE, resource.RLIMIT_MEMLOCK):
    soft, hard = resource.getrlimit(what)
    try:
        resource.setrlimit(what, (hard + 1, hard + 1))
        print("RAISED", what)
    except (OSError, ValueError):
        print(soft == hard, end=" ")
"""
    seen = await python(
        program, str(FILE_BYTES_MAX), mounts=[Mount(group, "/workspace/group", writable=True)],
        limits=Limits(open_files=128),
    )  # fmt: skip
    assert seen.lines == ["True False []", "EFBIG", "EMFILE 128", "True True True True "], seen


async def test_ac44_iso01_tmp_has_its_size_and_no_more(python):
    seen = await python("""
import errno
written = 0
try:
    with open("/tmp/fill", "wb", buffering=0) as file:
        while True:
            written += file.write(b"x" * 65536)
except OSError as error:
    print(errno.errorcode[error.errno], written >> 20)
""", limits=Limits(tmp_bytes=8 << 20))  # fmt: skip
    name, size = seen.text.split()
    assert name == "ENOSPC"
    assert 6 <= int(size) <= 8


async def test_writable_and_read_only_folders(run, folders):
    group, shared = folders("group", "shared")
    (shared / "known").write_text("of the house\n")
    shared.chmod(0o755)
    seen = await run(
        ["/bin/sh", "-c", "cat /workspace/global/known; echo mine > made; mkdir -p deep/er; "
                          "echo x > /workspace/global/other || echo refused; pwd"],
        mounts=[Mount(group, "/workspace/group", writable=True), Mount(shared, "/workspace/global")],
        workdir="/workspace/group",
    )  # fmt: skip
    assert seen.lines == ["of the house", "refused", "/workspace/group"], seen
    assert (group / "made").read_text() == "mine\n"
    assert (group / "deep" / "er").is_dir()
    assert sorted(path.name for path in shared.iterdir()) == ["known"]


async def test_ac42_iso09_a_missing_folder_is_refused_and_not_made(backend, new_spec, tmp_path):
    missing = tmp_path / "missing"
    with pytest.raises(SpecRefused, match="missing"):
        await backend.start(new_spec(["true"], mounts=[Mount(missing, "/workspace/group", writable=True)]))
    assert not missing.exists()


async def test_iso09_a_folder_that_went_since_it_was_looked_at_is_not_made(
    backend, new_spec, folders, monkeypatch, reading
):
    """Nor by the engine itself, once we have looked."""
    (gone,) = folders("gone")
    module = sys.modules[type(backend).__module__]

    def admit(spec, closed):
        spec = spec_admit(spec, closed)
        shutil.rmtree(gone, ignore_errors=True)
        return spec

    monkeypatch.setattr(module, "admit", admit)
    try:
        ended = (await reading(await backend.start(new_spec(["true"], mounts=[Mount(gone, "/workspace/group")])))).ended
    except SandboxError as error:
        assert "gone" in str(error)
    else:
        # Bubblewrap comes to its mounts when it has started.
        assert ended.code != 0 and "gone" in ended.stderr_tail
    assert not gone.exists()


@pytest.mark.parametrize("source", [
    "/", "/proc", "/proc/1", "/sys/kernel", "/dev", "/etc", "/run", "/var/run/docker.sock", "/var", "relative",
    "/tmp/../etc",
])  # fmt: skip
async def test_ac42_no_run_sees_the_hosts_own(backend, new_spec, source):
    with pytest.raises(SpecRefused):
        await backend.start(new_spec(["true"], mounts=[Mount(Path(source), "/workspace/group")]))


async def test_ac42_a_link_to_a_closed_folder_is_refused(backend, new_spec, tmp_path):
    (tmp_path / "harmless").symlink_to("/etc")
    with pytest.raises(SpecRefused, match="/etc"):
        await backend.start(new_spec(["true"], mounts=[Mount(tmp_path / "harmless", "/workspace/group")]))


async def test_ac39_iso07_traps_in_a_folder_are_not_followed(python, folders, tmp_path):
    """What a run leaves behind, read by the host."""
    (group,) = folders("group")
    (tmp_path / "secret").write_text("of the host")
    program = f"""
import os
os.chdir("/workspace/group")
os.symlink({str(tmp_path / "secret")!r}, "link")
os.mkdir("inner"); os.symlink("..", "inner/up"); os.symlink({str(tmp_path)!r}, "way")
os.symlink("/proc/self/environ", "magic")
os.mkfifo("pipe")
with open("huge", "wb") as file: file.truncate(3 << 30)
try:
    with open("sparse", "wb") as file: file.truncate(20 << 30)
except OSError as error:
    print(error.strerror)
with open("good", "w") as file: file.write("fine")
with open("inner/good", "w") as file: file.write("also fine")
for mode in (0o20666, 0o60666):
    try:
        os.mknod("device", mode, os.makedev(1, 8))
    except OSError as error:
        print(error.strerror)
"""
    seen = await python(
        program, mounts=[Mount(group, "/workspace/group", writable=True)], limits=Limits()
    )
    assert seen.lines == ["File too large", *["Operation not permitted"] * 2], seen
    refused = ("link", "way/secret", "inner/up/good", "magic", "pipe", "huge", "inner", "../secret", "/etc/passwd", "")
    for name in refused:
        with pytest.raises(FileRefused):
            read_file(group, name, 1 << 20)
    assert read_file(group, "good", 4) == b"fine"
    assert read_file(group, "inner/good", 100) == b"also fine"
    with pytest.raises(FileRefused, match="more than 3"):
        read_file(group, "good", 3)
    with pytest.raises(FileNotFoundError):
        read_file(group, "nothing", 3)


async def test_a_file_that_came_with_a_message_is_the_groups_own(backend, new_spec, folders):
    """Put there while the worker lives, by whoever we are: it can be read and thrown away inside."""
    (group,) = folders("group")
    program = "echo up; read line; cat attachments/a.txt && rm attachments/a.txt && rmdir attachments && echo gone"
    sandbox = await backend.start(new_spec(
        ["/bin/sh", "-c", f"{{ {program}; }} 2>&1"], mounts=[Mount(group, "/workspace/group", writable=True)],
        workdir="/workspace/group",
    ))
    try:
        assert await asyncio.wait_for(sandbox.receive(), 30) == b"up\n"
        write_beneath(group, "attachments", "a.txt", b"a letter\n")
        await sandbox.send(b"\n")
        assert [await asyncio.wait_for(sandbox.receive(), 30) for _ in range(2)] == [b"a letter\n", b"gone\n"]
    finally:
        await sandbox.kill()


async def test_ac39_a_file_that_came_with_a_message_follows_no_trap(python, folders, tmp_path):
    """The run has put links where the host will write; nothing outside changes."""
    (group, outside) = folders("group", "outside")
    (outside / "kept").write_text("of the host")
    program = f"""
import os
os.chdir("/workspace/group")
os.symlink({str(outside)!r}, "linked"); os.mkdir("real")
for name in ("a", ".b.new"): os.symlink({str(outside / "kept")!r}, "real/" + name)
os.mkfifo("real/c"); os.mkfifo("real/.d.new")
print("set")
"""
    assert (await python(program, mounts=[Mount(group, "/workspace/group", writable=True)])).lines == ["set"]
    with pytest.raises(OSError, match="linked"):
        write_beneath(group, "linked", "x", b"new")
    for name in "abcd":
        write_beneath(group, "real", name, b"new")
        assert read_file(group, f"real/{name}", 10) == b"new"
    assert (outside / "kept").read_text() == "of the host" and len(list(outside.iterdir())) == 1


def test_ac39_iso07_the_same_where_the_kernel_is_old(tmp_path, monkeypatch):
    """Without openat2 each part is opened by itself."""
    monkeypatch.setattr(reading_module.sys, "platform", "darwin")
    folder = tmp_path / "group"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "good").write_text("fine")
    (tmp_path / "secret").write_text("of the host")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "way").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    assert read_file(folder, "inner/good", 10) == b"fine"
    for name in ("link", "way/secret", "pipe", "inner", "../secret"):
        with pytest.raises(FileRefused):
            read_file(folder, name, 10)


async def test_iso07_nothing_setuid_works(backend, new_spec, folders):
    """Nor can it be made: outside such a file may be root's, for whoever reaches it there. Not even a program that the
    host's root would have put there works."""
    (group,) = folders("group")
    program = """
import os, shutil, subprocess, sys
os.chdir("/workspace/group")
shutil.copy(os.path.realpath(sys.executable), "program")
def tried(work):
    try:
        work()
        return "DONE"
    except OSError as error:
        return error.strerror
made = os.O_CREAT | os.O_WRONLY
print({tried(work) for work in (
    lambda: os.chmod("program", 0o4755), lambda: os.chmod("program", 0o2755), lambda: os.open("a", made, 0o4755),
    lambda: os.open(".", os.O_TMPFILE | os.O_WRONLY, 0o6755), lambda: os.mknod("b", 0o104755),
)}, tried(lambda: os.chmod("program", 0o1755)))
input()
mode = os.stat("program").st_mode
print(bool(mode & 0o4000), os.getuid(), flush=True)
subprocess.run(["./program", "-I", "-S", "-c", "import os; print(os.geteuid())"])
print(bool(os.statvfs(".").f_flag & os.ST_NOSUID), bool(os.statvfs(".").f_flag & os.ST_NODEV))
"""
    sandbox = await backend.start(new_spec(
        [backend.agent_argv()[0], "-I", "-S", "-u", "-c", program], limits=Limits(),
        mounts=[Mount(group, "/workspace/group", writable=True)],
    ))
    try:
        assert await asyncio.wait_for(sandbox.receive(), 30) == b"{'Operation not permitted'} DONE\n"
        if not os.getuid():
            # Bubblewrap's user inside is our root: there it has to be somebody else's.
            os.chown(group / "program", 4711 if isinstance(backend, Bubblewrap) else 0, -1)
        (group / "program").chmod(0o4755)
        await sandbox.send(b"\n")
        said = [(await asyncio.wait_for(sandbox.receive(), 30) or b"").decode().split() for _ in range(3)]
    finally:
        await sandbox.kill()
    (setuid, mine), (became,), (nosuid, nodev) = said
    assert (setuid, became) == ("True", mine)
    if isinstance(backend, Bubblewrap):
        # Engines can't be asked for it: there no new privileges and no `mknod` stand alone.
        assert (nosuid, nodev) == ("True", "True")


async def test_a_folder_changes_hands_with_the_backend(run, folders):
    """Where we are root the backends' users differ; what one wrote the other can write on."""
    if os.getuid():
        pytest.skip("only root hands folders over; others keep their own")
    (group,) = folders("group")
    (group / "old").write_text("x")
    os.chown(group, 4711, 4711)
    group.chmod(0o700)
    seen = await run(
        ["/bin/sh", "-c", "echo y >> old && cat old"],
        mounts=[Mount(group, "/workspace/group", writable=True)], workdir="/workspace/group",
    )  # fmt: skip
    assert seen.text == "xy\n", seen


def test_limits_can_not_be_left_out():
    """A RunSpec has no field that widens: the names are the contract."""
    from microclaw.sandbox.backend import RunSpec

    assert set(RunSpec.__dataclass_fields__) == {
        "worker_id", "installation", "argv", "env", "mounts", "door", "limits", "workdir",
    }
    assert replace(Limits(), pids=5).pids == 5
