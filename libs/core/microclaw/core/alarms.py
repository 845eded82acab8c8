"""What `watch` saw go wrong with a service: JSON lines in one small file, read by `microclaw status`."""

from __future__ import annotations

from pathlib import Path

import msgspec

from microclaw.core.home import Home

#: The file is cut to its newer half beyond this.
FILE_BYTES_MAX = 64 * 1024
#: What `status` tells of.
AGE_S_MAX = 24 * 3600


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """A service is in trouble that the owner should know."""

    ts_ms: int
    service: str
    #: The state that supervisord reported, or `LOOP`: it runs and dies, over and over.
    state: str
    #: One line: what happened and what is done about it.
    detail: str


def alarms_file(home: Home) -> Path:
    """Where they are; `watch` is the only writer."""
    return home.data / "alarms.jsonl"


def add_alarm(home: Home, alarm: Alarm) -> None:
    """Append one; the oldest are dropped when the file has grown."""
    path = alarms_file(home)
    with path.open("ab") as file:
        file.write(msgspec.json.encode(alarm) + b"\n")
        size = file.tell()
    if size > FILE_BYTES_MAX:
        kept = path.read_bytes()[-FILE_BYTES_MAX // 2 :].split(b"\n", 1)[-1]
        fresh = path.with_suffix(".new")
        fresh.write_bytes(kept)
        fresh.replace(path)


def read_alarms(home: Home, since_ms: int = 0) -> list[Alarm]:
    """All alarms from `since_ms` on, oldest first. A line cut short by a crash is left out."""
    try:
        lines = alarms_file(home).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            found.append(msgspec.json.decode(line, type=Alarm))
        except msgspec.DecodeError:
            continue
    return [alarm for alarm in found if alarm.ts_ms >= since_ms]
