"""The seccomp program, carried out by a small interpreter, against the rules it was made from."""

from __future__ import annotations

import errno
import json
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microclaw.sandbox import bpf, seccomp
from microclaw.sandbox.backend import EngineMissing

PROGRAMS = {name: seccomp.bpf(name) for name in seccomp.ARCHITECTURES}
EPERM, ENOSYS = bpf.errno_action(errno.EPERM), bpf.errno_action(errno.ENOSYS)
MACHINES = st.sampled_from(sorted(seccomp.ARCHITECTURES))


def carry_out(program: bytes, arch: int, number: int, args: tuple[int, ...] = ()) -> int:
    """What the kernel would: classic BPF over `struct seccomp_data`."""
    data = struct.pack("=IIQ6Q", number, arch, 0, *args, *([0] * (6 - len(args))))
    code = list(struct.iter_unpack("=HBBI", program))
    loaded, at = 0, 0
    while True:
        what, jump_true, jump_false, operand = code[at]
        at += 1
        match what:
            case 0x20:
                assert operand % 4 == 0
                (loaded,) = struct.unpack_from("=I", data, operand)
            case 0x54:
                loaded &= operand
            case 0x05:
                at += operand
            case 0x15:
                at += jump_true if loaded == operand else jump_false
            case 0x35:
                at += jump_true if loaded >= operand else jump_false
            case 0x06:
                return operand
            case _:
                raise AssertionError(f"unknown instruction {what:#x}")


def expected(rule: seccomp.Rule, args: tuple[int, ...]) -> int:
    for alternative in rule.allowed:
        if all(args[part.arg] & part.mask == part.value for part in alternative):
            return bpf.ALLOW
    return bpf.errno_action(rule.refusal)


@settings(max_examples=500)
@given(MACHINES, st.integers(0, 600), st.tuples(*[st.integers(0, 2**64 - 1) | st.integers(0, 64)] * 6))
def test_every_number_gets_what_its_rule_says(machine, number, args):
    architecture = seccomp.ARCHITECTURES[machine]
    rule = seccomp.numbered(architecture).get(number, seccomp.ABSENT)
    assert carry_out(PROGRAMS[machine], architecture.audit, number, args) == expected(rule, args)


@pytest.mark.parametrize("machine", sorted(seccomp.ARCHITECTURES))
def test_each_known_call_by_name(machine):
    architecture = seccomp.ARCHITECTURES[machine]
    for number, rule in seccomp.numbered(architecture).items():
        assert carry_out(PROGRAMS[machine], architecture.audit, number) == expected(rule, (0,) * 6)


@given(MACHINES, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_calls_of_another_architecture_end_the_process(machine, arch, number):
    if arch != seccomp.ARCHITECTURES[machine].audit:
        assert carry_out(PROGRAMS[machine], arch, number) == bpf.KILL_PROCESS


@given(st.integers(0, 600))
def test_x32_calls_end_the_process(number):
    arch = seccomp.ARCHITECTURES["x86_64"].audit
    assert carry_out(PROGRAMS["x86_64"], arch, 0x40000000 | number) == bpf.KILL_PROCESS
    assert carry_out(PROGRAMS["x86_64"], arch, 0xFFFFFFFF) == bpf.KILL_PROCESS


@given(MACHINES, st.integers(457, 2**30 - 1))
def test_calls_newer_than_the_table_do_not_exist(machine, number):
    architecture = seccomp.ARCHITECTURES[machine]
    assert carry_out(PROGRAMS[machine], architecture.audit, number) == ENOSYS


#: name → arguments → what becomes of it.
CASES = [
    ("keyctl", (), EPERM), ("bpf", (), EPERM), ("io_uring_setup", (), EPERM), ("userfaultfd", (), EPERM),
    ("ptrace", (), EPERM), ("mount", (), EPERM), ("unshare", (), EPERM), ("setns", (), EPERM),
    ("kexec_load", (), EPERM), ("open_by_handle_at", (), EPERM), ("perf_event_open", (), EPERM),
    ("clone3", (), ENOSYS), ("openat2", (), ENOSYS), ("execve", (), bpf.ALLOW), ("futex", (), bpf.ALLOW),
    ("clone", (17,), bpf.ALLOW), ("clone", (0x3D0F00,), bpf.ALLOW), ("clone", (0x10000011,), EPERM),
    ("clone", (0x40000011,), EPERM), ("clone", (0x20011,), EPERM),
    ("personality", (0,), bpf.ALLOW), ("personality", (0xFFFFFFFF,), bpf.ALLOW), ("personality", (0x40000,), EPERM),
    ("socket", (1, 1, 0), bpf.ALLOW), ("socket", (2, 1, 0), bpf.ALLOW), ("socket", (10, 2, 0), bpf.ALLOW),
    ("socket", (16, 3, 0), bpf.ALLOW), ("socket", (16, 3, 9), EPERM), ("socket", (17, 3, 0), EPERM),
    ("socket", (40, 1, 0), EPERM), ("socket", (38, 5, 0), EPERM),
    ("ioctl", (0, 0x5413), bpf.ALLOW), ("ioctl", (0, 0x5412), EPERM), ("ioctl", (0, 0x541C), EPERM),
    # The kernel looks at the low half only: so do we.
    ("ioctl", (0, 0x1_0000_5412), EPERM), ("ioctl", (0, 0xFFFF_FFFF_0000_541C), EPERM),
    ("ioctl", (0, 0x5401), bpf.ALLOW),
    ("fchmod", (3, 0o755), bpf.ALLOW), ("fchmod", (3, 0o1777), bpf.ALLOW), ("fchmod", (3, 0o4755), EPERM),
    ("fchmodat", (3, 0, 0o2755), EPERM), ("fchmodat2", (3, 0, 0o6755), EPERM), ("mknodat", (3, 0, 0o104755), EPERM),
    ("openat", (3, 0, 0o100, 0o644), bpf.ALLOW), ("openat", (3, 0, 0o100, 0o4755), EPERM),
    ("openat", (3, 0, 0o20200000, 0o4755), EPERM), ("openat", (3, 0, 0, 0o4755), bpf.ALLOW),
]  # fmt: skip


@pytest.mark.parametrize("machine", sorted(seccomp.ARCHITECTURES))
@pytest.mark.parametrize(("name", "args", "action"), CASES)
def test_what_matters_by_name(machine, name, args, action):
    table = json.loads(seccomp.files("microclaw.sandbox").joinpath("syscalls.json").read_text())
    architecture = seccomp.ARCHITECTURES[machine]
    number = table[name][architecture.column]
    assert carry_out(PROGRAMS[machine], architecture.audit, number, args) == action


@given(st.frozensets(st.integers(0, 2**32 - 1), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_a_complement_holds_for_all_but_the_named(values, other):
    patterns = seccomp.complement(values)
    def holds(value: int) -> bool:
        return any(value & mask == pattern for mask, pattern in patterns)

    assert not any(map(holds, values))
    assert holds(other) == (other not in values)
    assert len(patterns) <= 32 * len(values)


def test_dockers_form_says_the_same():
    profile = json.loads(seccomp.docker_json())
    assert (profile["defaultAction"], profile["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", errno.EPERM)
    assert {entry["architecture"] for entry in profile["archMap"]} == {"SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"}
    assert all(entry["subArchitectures"] == [] for entry in profile["archMap"])
    free = {name for entry in profile["syscalls"] if entry["action"] == "SCMP_ACT_ALLOW" and not entry.get("args")
            for name in entry["names"]}  # fmt: skip
    bound = {entry["names"][0] for entry in profile["syscalls"] if entry.get("args")}
    refused = {name: entry["errnoRet"] for entry in profile["syscalls"] if entry["action"] == "SCMP_ACT_ERRNO"
               for name in entry["names"]}  # fmt: skip
    known = seccomp.rules()
    assert free == {name for name, rule in known.items() if rule == seccomp.ALLOWED}
    assert bound == {name for name, rule in known.items() if rule.allowed and rule != seccomp.ALLOWED}
    assert bound >= {"clone", "ioctl", "personality", "socket", "chmod", "openat"}
    assert refused == {name: rule.refusal for name, rule in known.items() if not rule.allowed}
    assert refused["clone3"] == errno.ENOSYS
    # runc takes no rule that names one argument twice.
    for entry in profile["syscalls"]:
        places = [part["index"] for part in entry.get("args", [])]
        assert len(places) == len(set(places))
        assert all(part["op"] == "SCMP_CMP_MASKED_EQ" for part in entry.get("args", []))


def test_an_unknown_processor_is_refused():
    with pytest.raises(EngineMissing, match="riscv64"):
        seccomp.bpf("riscv64")


def test_a_program_that_would_jump_back_or_nowhere_is_refused():
    program = bpf.Program()
    start, nowhere = bpf.Label(), bpf.Label()
    program.place(start)
    program.load(0)
    program.jump(nowhere)
    with pytest.raises(ValueError, match="behind"):
        program.assemble()
    back = bpf.Program()
    label = bpf.Label()
    back.place(label)
    back.jump(label)
    with pytest.raises(ValueError, match="behind"):
        back.assemble()


def test_a_program_that_is_too_long_is_refused():
    program = bpf.Program()
    for _ in range(bpf.INSTRUCTIONS_MAX + 1):
        program.end(bpf.ALLOW)
    with pytest.raises(ValueError, match="longer"):
        program.assemble()
