"""Which system calls a run may make: one profile, kept as data, in the forms that the backends take.

An allow-list: what `syscalls.json` knows without what `seccomp_profile.json` refuses. Calls that are newer
than the table do not exist inside (ENOSYS), so a new kernel opens nothing. Calls by another ABI (i386, x32)
end the process.
"""

from __future__ import annotations

import errno
import json
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from microclaw.sandbox.backend import EngineMissing
from microclaw.sandbox.bpf import ALLOW, ARCH_OFFSET, KILL_PROCESS, NR_OFFSET, Label, Program, errno_action

#: Numbers from here on are x32's, on x86_64.
X32_BIT = 0x40000000

_32_BITS = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Architecture:
    """A processor we have system call numbers for."""

    #: As the kernel names it in `struct seccomp_data`.
    audit: int
    #: As Docker's JSON names it.
    docker: str
    #: Its column in the table.
    column: int


ARCHITECTURES = {
    "x86_64": Architecture(0xC000003E, "SCMP_ARCH_X86_64", 0),
    "aarch64": Architecture(0xC00000B7, "SCMP_ARCH_AARCH64", 1),
}


@dataclass(frozen=True, slots=True)
class Condition:
    """The low half of an argument, masked, has this value."""

    arg: int
    mask: int
    value: int


@dataclass(frozen=True, slots=True)
class Rule:
    """What becomes of one system call: allowed when all conditions of one alternative hold, else `refusal`
    (errno)."""

    allowed: tuple[tuple[Condition, ...], ...]
    refusal: int = errno.EPERM


ALLOWED = Rule(((),))
REFUSED = Rule(())
ABSENT = Rule((), errno.ENOSYS)


@cache
def rules() -> dict[str, Rule]:
    """Every known system call by name."""
    profile = _data("seccomp_profile.json")
    found = dict.fromkeys(_data("syscalls.json"), ALLOWED)
    for group, rule in (("refused", REFUSED), ("absent", ABSENT)):
        for names in profile[group].values():
            found.update(dict.fromkeys(names, rule))
    for name, said in profile["conditional"].items():
        if "refused" in said:
            parts = complement([int(value, 16) for value in said["refused"]])
            found[name] = Rule(tuple((Condition(said["arg"], mask, value),) for mask, value in parts))
        else:
            found[name] = Rule(tuple(
                tuple(Condition(part["arg"], int(part["mask"], 16), int(part["value"], 16)) for part in alternative)
                for alternative in said["allowed"]
            ))  # fmt: skip
    return found


def complement(values: Iterable[int]) -> list[tuple[int, int]]:
    """Masks and values that together hold for every 32-bit number except `values`.

    Neither Docker's JSON nor libseccomp can say "none of these, looking at the low half only"; they can say
    "one of these patterns". The patterns are the branches of the bit tree in which no refused value lies.
    """
    patterns: list[tuple[int, int]] = []
    pending = [(32, 0, frozenset(values))]
    while pending:
        bits, prefix, inside = pending.pop()
        if not inside:
            patterns.append(((_32_BITS << bits) & _32_BITS, prefix))
        elif bits:
            bit = 1 << (bits - 1)
            pending.append((bits - 1, prefix, frozenset(v for v in inside if not v & bit)))
            pending.append((bits - 1, prefix | bit, frozenset(v for v in inside if v & bit)))
    return sorted(patterns)


def numbered(architecture: Architecture) -> dict[int, Rule]:
    """The rules by system call number."""
    known = rules()
    found = {}
    for name, numbers in _data("syscalls.json").items():
        number = numbers[architecture.column]
        if number is not None:
            found[number] = known[name]
    return found


def bpf(machine: str) -> bytes:
    """The program that `bwrap --seccomp` takes.

    :raises EngineMissing: there are no numbers for this processor.
    """
    architecture = _architecture(machine)
    program = Program()
    foreign, x32 = Label(), Label()
    program.load(ARCH_OFFSET)
    program.unless_equal(architecture.audit, foreign)
    program.load(NR_OFFSET)
    if architecture.column == 0:
        program.if_at_least(X32_BIT, x32)
    _search(program, _segments(numbered(architecture)))
    program.place(foreign)
    program.place(x32)
    program.end(KILL_PROCESS)
    return program.assemble()


@cache
def bpf_for_host() -> bytes:
    """:raises EngineMissing: there are no numbers for this processor."""
    return bpf(platform.machine())


@cache
def docker_json() -> str:
    """The profile as Docker and Podman take it in `security_opt`.

    Its default answers where the conditions of a call don't hold, so it is EPERM; to calls that are newer than all
    named here runc itself answers ENOSYS.
    """
    plain: dict[int, list[str]] = {}
    entries: list[dict[str, object]] = []
    for name, rule in rules().items():
        if rule == ALLOWED:
            plain.setdefault(0, []).append(name)
            continue
        if not rule.allowed:
            plain.setdefault(rule.refusal, []).append(name)
        for alternative in rule.allowed:
            entries.append({
                "names": [name],
                "action": "SCMP_ACT_ALLOW",
                "args": [
                    {"index": part.arg, "value": part.mask, "valueTwo": part.value, "op": "SCMP_CMP_MASKED_EQ"}
                    for part in alternative
                ],
            })
    for number, names in plain.items():
        action = {"action": "SCMP_ACT_ERRNO", "errnoRet": number} if number else {"action": "SCMP_ACT_ALLOW"}
        entries.append({"names": names, **action})
    return json.dumps({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.EPERM,
        "archMap": [
            {"architecture": architecture.docker, "subArchitectures": []} for architecture in ARCHITECTURES.values()
        ],
        "syscalls": entries,
    })  # fmt: skip


def _architecture(machine: str) -> Architecture:
    try:
        return ARCHITECTURES[{"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)]
    except KeyError:
        raise EngineMissing(
            f"there is no seccomp profile for {machine} processors; use one of {', '.join(ARCHITECTURES)}"
        ) from None


def _data(name: str) -> dict[str, dict]:  # type: ignore[type-arg]
    loaded: dict[str, dict] = json.loads(files(__package__).joinpath(name).read_text())  # type: ignore[type-arg]
    return loaded


def _segments(known: dict[int, Rule]) -> list[tuple[int, Rule]]:
    """(first number, rule) of each run of numbers with the same rule, from 0 on; what is not known is
    absent."""
    segments: list[tuple[int, Rule]] = []
    for number in range(max(known) + 2):
        rule = known.get(number, ABSENT)
        if not segments or segments[-1][1] != rule:
            segments.append((number, rule))
    return segments


def _search(program: Program, segments: Sequence[tuple[int, Rule]]) -> None:
    """A binary search for the segment of the loaded number."""
    if len(segments) == 1:
        _decide(program, segments[0][1])
        return
    middle = len(segments) // 2
    upper = Label()
    program.if_at_least(segments[middle][0], upper)
    _search(program, segments[:middle])
    program.place(upper)
    _search(program, segments[middle:])


def _decide(program: Program, rule: Rule) -> None:
    for alternative in rule.allowed:
        following = Label()
        for part in alternative:
            program.load_arg(part.arg)
            program.mask(part.mask)
            program.unless_equal(part.value, following)
        program.end(ALLOW)
        if not alternative:
            return
        program.place(following)
    program.end(errno_action(rule.refusal))
