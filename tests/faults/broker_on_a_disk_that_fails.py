"""The broker process on a real disk that becomes read-only under it, as ext4 does after an error: `python -m … ROOT`,
as root in a mount namespace of its own (`unshare -m`). Prints `well`, or why it can't be tried here."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from pathlib import Path

from tests.broker_process import DEADLINE_S, BrokerProcess

from microclaw.bus.api import Draft
from microclaw.core.kinds import ReplyRequested

IMAGE_BYTES = 96 << 20
TOLD = 20
#: Whatever is published then, nobody may be told that it is kept.
PATIENCE_S = 5.0


def text(number: int) -> Draft:
    return Draft("s", ReplyRequested(chat="s", text=f"number {number}"))


def main(root: Path) -> str:
    image, data = root / "image", root / "data"
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    broker = BrokerProcess(root)
    for command in (
        ["mkfs.ext4", "-q", "-F", image], ["mount", "-o", "loop,errors=remount-ro", image, data],
        ["chmod", "700", data],
    ):
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
        if done.returncode:
            return f"skip {command[0]}: {done.stderr.strip()}"
    (device,) = [line.split()[0] for line in Path("/proc/mounts").read_text().splitlines() if f" {data} " in line]
    fault = Path("/sys/fs/ext4", Path(device).name, "trigger_fs_error")
    if not fault.exists():
        return f"skip {fault} is not there"

    async def until_it_fails() -> None:
        bus = await broker.bus("p")
        for number in range(TOLD):
            await bus.publish(text(number))
        fault.write_text("1")
        with contextlib.suppress(Exception):
            await asyncio.wait_for(bus.publish(text(TOLD)), PATIENCE_S)
            raise SystemExit("acknowledged, and not on disk")

    async def all_is_there() -> None:
        bus = await broker.bus("q")
        await bus.publish(text(TOLD))
        kept = []
        async for envelope in bus.replay("s", 0):
            kept.append(envelope.read(ReplyRequested).text)
            if len(kept) == TOLD + 1:
                break
        assert kept == [f"number {number}" for number in range(TOLD + 1)], kept

    broker.start()
    asyncio.run(until_it_fails())
    assert broker.process is not None
    assert broker.process.wait(DEADLINE_S) == 5
    ended = broker.log()
    assert "trace" not in ended, ended
    assert "ends without answering" in ended and "read-only" in ended.splitlines()[-1], ended
    assert broker.start().process.wait(DEADLINE_S) == 5  # type: ignore[union-attr]
    (refused,) = broker.log().removeprefix(ended).splitlines()
    assert "read-only" in refused and "remount,rw" in refused, refused
    for command in (["umount", data], ["e2fsck", "-fy", image], ["mount", "-o", "loop", image, data]):
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
        assert done.returncode in ((0, 1) if command[0] == "e2fsck" else (0,)), (command, done)
    broker.start()
    asyncio.run(all_is_there())
    broker.close()
    return "well"


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))
