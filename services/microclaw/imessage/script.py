"""Sending by AppleScript: the text is an argument, never part of a script, so nothing in it can do anything."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import signal
from contextlib import suppress
from pathlib import Path

from microclaw.channel.platform import NotSent, Rejected, Unsure

#: The place comes first: osascript takes what begins with "-" for an option until the first argument that does not.
_SEND_TEXT = (
    "on run {place, what}", 'tell application "Messages" to send what to chat id place', "end run",
)
_SEND_FILE = (
    "on run {place, what}", 'tell application "Messages" to send (POSIX file what) to chat id place', "end run",
)
#: Messages may have to start first.
SCRIPT_S_MAX = 45.0
_ERROR_CHARS_MAX = 300
_NUMBER = re.compile(r"\((-\d+)\)\s*$")
#: AppleScript's own numbers: what they mean for us.
_NO_SUCH_CHAT, _NOT_RUNNING, _TIMED_OUT, _NOT_ALLOWED = -1728, -600, -1712, -1743


class Osascript:
    """The program, one at a time. A running one holds a lock that the kernel frees with it: after a crash of ours we
    see whether one is still at work."""

    def __init__(self, program: str, lock: Path) -> None:
        self._program = program
        self._lock = lock

    def is_running(self) -> bool:
        """Whether one that we started, in this life or an earlier one, still runs."""
        handle = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    def end_the_stuck_one(self) -> None:
        """Kill the one that holds the lock."""
        with suppress(ValueError, ProcessLookupError, FileNotFoundError):
            group = int(self._lock.read_text())
            if self.is_running():
                os.killpg(group, signal.SIGKILL)

    async def send(self, place: str, what: str, *, is_file: bool) -> None:
        """Have Messages send it. Returns when Messages said that it took it, which is not yet proof.

        :raises NotSent: it was certainly not taken. :raises Rejected: and never will be.
        :raises Unsure: it may have been taken.
        """
        handle = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise NotSent("an earlier osascript is still at work", 2.0) from error
            os.ftruncate(handle, 0)
            process = await self._start(handle, place, what, is_file)
            os.pwrite(handle, str(process.pid).encode(), 0)
        finally:
            # The child has its own copy of it.
            os.close(handle)
        try:
            _, said = await asyncio.wait_for(process.communicate(), SCRIPT_S_MAX)
        except TimeoutError as error:
            raise Unsure(f"osascript did not end within {SCRIPT_S_MAX:.0f} s") from error
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode:
            raise _meaning(said.decode(errors="replace").strip())

    async def _start(self, handle: int, place: str, what: str, is_file: bool) -> asyncio.subprocess.Process:
        lines = _SEND_FILE if is_file else _SEND_TEXT
        script = [word for line in lines for word in ("-e", line)]
        try:
            return await asyncio.create_subprocess_exec(
                self._program, *script, place, what, stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, pass_fds=(handle,),
                start_new_session=True,
            )
        except OSError as error:
            raise NotSent(f"{self._program} can't be started: {error.strerror}") from error


def _meaning(said: str) -> Exception:
    """What a failed script's last words mean."""
    found = _NUMBER.search(said)
    number = int(found[1]) if found else 0
    short = said[-_ERROR_CHARS_MAX:]
    if number == _NO_SUCH_CHAT:
        return Rejected(f"Messages knows no such conversation: {short}")
    if number == _NOT_RUNNING:
        return NotSent(f"Messages does not run: {short}")
    if number == _NOT_ALLOWED:
        return NotSent(
            "macOS does not let MicroClaw control Messages: allow it in System Settings → Privacy & Security → "
            "Automation", 60.0, everywhere=True,
        )
    return Unsure(f"osascript failed: {short}")
