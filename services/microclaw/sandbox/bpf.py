"""Classic BPF as seccomp knows it: a few instructions, assembled to bytes. Pure.

Only jumps that go forward exist. Conditional ones reach one instruction further and `jump` (32 bits) does the
rest, so programs of any size assemble the same way.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

#: Offsets in `struct seccomp_data`.
NR_OFFSET = 0
ARCH_OFFSET = 4
ARGS_OFFSET = 16

ALLOW = 0x7FFF0000
KILL_PROCESS = 0x80000000
_ERRNO = 0x00050000

#: The kernel takes no longer program.
INSTRUCTIONS_MAX = 4096

_LD_W_ABS = 0x20
_ALU_AND_K = 0x54
_JMP_JA = 0x05
_JMP_JEQ_K = 0x15
_JMP_JGE_K = 0x35
_RET_K = 0x06


def errno_action(errno: int) -> int:
    """Refuse with this error number."""
    return _ERRNO | errno


@dataclass
class Label:
    """A place that jumps go to, before it is known."""

    at: int | None = None


@dataclass
class Program:
    """Instructions in order; `assemble` when all labels are placed."""

    _code: list[tuple[int, int, int, int | Label]] = field(default_factory=list)

    def load(self, offset: int) -> None:
        """The 32 bits at `offset` of the system call's data."""
        self._code.append((_LD_W_ABS, 0, 0, offset))

    def load_arg(self, number: int, *, big_endian: bool = False) -> None:
        """The low half of an argument."""
        self.load(ARGS_OFFSET + 8 * number + (4 if big_endian else 0))

    def mask(self, bits: int) -> None:
        self._code.append((_ALU_AND_K, 0, 0, bits))

    def unless_equal(self, value: int, to: Label) -> None:
        """Go on where the loaded value is `value`, else jump."""
        self._code.append((_JMP_JEQ_K, 1, 0, value))
        self.jump(to)

    def if_at_least(self, value: int, to: Label) -> None:
        """Jump where the loaded value is `value` or more (unsigned), else go on."""
        self._code.append((_JMP_JGE_K, 0, 1, value))
        self.jump(to)

    def jump(self, to: Label) -> None:
        self._code.append((_JMP_JA, 0, 0, to))

    def place(self, label: Label) -> None:
        label.at = len(self._code)

    def end(self, action: int) -> None:
        """Return what becomes of the system call."""
        self._code.append((_RET_K, 0, 0, action))

    def assemble(self) -> bytes:
        """The bytes as the kernel of this byte order takes them (`struct sock_filter`).

        :raises ValueError: too long, or a jump to a label that was not placed behind it.
        """
        if len(self._code) > INSTRUCTIONS_MAX:
            raise ValueError(f"a program of {len(self._code)} instructions is longer than {INSTRUCTIONS_MAX}")
        parts = []
        for here, (code, jump_true, jump_false, operand) in enumerate(self._code):
            if isinstance(operand, Label):
                if operand.at is None or operand.at <= here:
                    raise ValueError(f"instruction {here} jumps to a label that is not behind it")
                operand = operand.at - here - 1
            parts.append(struct.pack("=HBBI", code, jump_true, jump_false, operand))
        return b"".join(parts)
