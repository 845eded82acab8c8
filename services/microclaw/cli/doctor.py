"""`microclaw doctor`: looks at what MicroClaw needs on this machine; `--fix` mends what it safely can."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import re
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from microclaw.cli.context import Context
from microclaw.cli.extras import is_installed
from microclaw.core.channel_settings import CONNECTORS
from microclaw.core.disk import Unwritable, check_writable
from microclaw.core.errors import MicroclawError, UsageError

PYTHON_MIN = (3, 11)
#: Below the first the journal soon refuses messages, below the second it is worth a word.
DISK_MB_MIN, DISK_MB_LOW = 200, 1024
#: A clock before this is wrong: the program is younger.
CLOCK_S_MIN = 1_790_000_000

UNHEALTHY = 5


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    what: str
    state: Literal["ok", "warn", "fail"]
    detail: str
    #: What to do; "" when nothing is.
    remedy: str = ""


def arguments(parser: argparse.ArgumentParser) -> None:
    """--fix and --deep."""
    parser.add_argument("--fix", action="store_true", help="make folders, modes and databases right")
    parser.add_argument("--deep", action="store_true", help="measure every protection of the sandbox (seconds)")


def run(context: Context, options: argparse.Namespace) -> int:
    """Print the findings. Exit code 5 if something fails."""
    if options.fix:
        fix(context)
    found: list[Finding] = []
    looks = (
        python, configuration, folders, databases, supervisord, running, consumers, sandbox(options.deep), channels,
        disk, clock,
    )
    for look in looks:
        found += look(context)
    if context.json:
        context.dump({"ok": not _failed(found), "checks": [asdict(one) for one in found]})
    else:
        colours = {"ok": "green", "warn": "yellow", "fail": "red"}
        rows = [(one.state, one.what, one.detail) for one in found]
        context.table(("", "WHAT", "FOUND"), rows, [colours[one.state] for one in found])
        for one in found:
            if one.remedy:
                print(f"{context.paint('→', colours[one.state])} {one.what}: {one.remedy}")
    return UNHEALTHY if _failed(found) else 0


def _failed(found: list[Finding]) -> bool:
    return any(one.state == "fail" for one in found)


def fix(context: Context) -> None:
    """Folders, modes, the configuration's mode, databases. Raises MicroclawError: something can't be mended here."""
    from microclaw.cli.up import prepare

    home = context.home
    for folder in home.private:
        if folder.is_dir() and folder.stat().st_uid == os.getuid() and folder.stat().st_mode & 0o077:
            folder.chmod(0o700)
            context.progress(f"closed {folder} to others")
    for path in (home.state, home.run.parent):
        if path.is_dir() and path.stat().st_uid == os.getuid() and path.stat().st_mode & 0o022:
            path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o022)
            context.progress(f"closed {path} against changes by others")
    if home.config.is_file() and home.config.stat().st_uid == os.getuid() and home.config.stat().st_mode & 0o077:
        home.config.chmod(0o600)
        context.progress(f"closed {home.config} to others")
    prepare(context)


def python(_context: Context) -> Iterator[Finding]:
    """The interpreter."""
    text = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < PYTHON_MIN:
        yield Finding("python", "fail", text, "install Python 3.11 or newer and run ./microclaw again")
    else:
        yield Finding("python", "ok", text)


def configuration(context: Context) -> Iterator[Finding]:
    """The file."""
    path = context.home.config
    try:
        context.settings  # noqa: B018 - reading them checks them
    except UsageError as error:
        yield Finding("configuration", "fail", str(error), "mend the file; `microclaw config check` checks it again")
        return
    if not path.exists():
        yield Finding("configuration", "ok", f"{path} is not there yet: the defaults hold")
    elif path.stat().st_mode & 0o077:
        yield Finding("configuration", "warn", f"{path} can be read by others", f"chmod 600 {path}")
    else:
        yield Finding("configuration", "ok", str(path))


def folders(context: Context) -> Iterator[Finding]:
    """Owners and modes."""
    troubles = context.home.troubles()
    for trouble in troubles:
        what, _, remedy = trouble.partition("; ")
        yield Finding("folders", "fail", what, remedy)
    if not troubles:
        missing = not context.home.data.exists()
        yield Finding("folders", "ok", f"{context.home.state}{' (made at the first start)' if missing else ''}")


def databases(context: Context) -> Iterator[Finding]:
    """Their versions."""
    from microclaw.store.migrate import heads, version_of

    behind = []
    for service, head in heads().items():
        try:
            found = version_of(context.home.database(service))
        except MicroclawError as error:
            what, _, remedy = str(error).partition("): ")
            yield Finding("databases", "fail", f"{what})" if remedy else what, remedy)
            return
        if found != head:
            behind.append(f"{service} {found or 'new'} → {head}")
    if behind and context.home.data.exists():
        yield Finding("databases", "warn", ", ".join(behind), "the next `microclaw up` brings them to date")
    else:
        yield Finding("databases", "ok", "made at the first start" if behind else "up to date")


def supervisord(_context: Context) -> Iterator[Finding]:
    """Its version and our configuration for it."""
    from importlib.metadata import PackageNotFoundError, version

    from microclaw.cli.supervisord import configuration as file

    try:
        found = version("supervisor")
        yield Finding("supervisord", "ok", f"{found}, {file()}")
    except PackageNotFoundError:
        yield Finding("supervisord", "fail", "not installed", "run ./microclaw from the repository: it installs it")
    except MicroclawError as error:
        yield Finding("supervisord", "fail", str(error))


def running(context: Context) -> Iterator[Finding]:
    """The mesh, as `status` sees it."""
    from microclaw.cli.status import look
    from microclaw.core.errors import NotRunningError

    try:
        seen = asyncio.run(look(context))
    except NotRunningError:
        yield Finding("services", "ok", "not running", "start: microclaw up -d, or microclaw chat")
        return
    except MicroclawError as error:
        yield Finding("services", "fail", str(error))
        return
    down = [f"{process.name} {seen.trouble(process)}" for process in seen.processes if seen.trouble(process)]
    if down:
        yield Finding("services", "fail", ", ".join(down), "microclaw status; microclaw logs SERVICE")
    else:
        yield Finding("services", "ok", f"all {len(seen.processes)} are ready")


def consumers(context: Context) -> Iterator[Finding]:
    """Consumer groups whose service is not in use any more: what they have not read is kept for ever."""
    from microclaw.bus import admin
    from microclaw.bus.supervisor import Supervisor
    from microclaw.cli.asking import asked_of
    from microclaw.cli.readiness import wanted

    try:
        used = {process.name for process in wanted(context, Supervisor(context.home.supervisor_socket).processes())}
        groups = asked_of(context, "broker", admin.GroupsOfBusAsked(), admin.GroupsOfBus).groups
    except MicroclawError:
        return  # what does not run is told elsewhere
    for group in groups:
        service = re.split(r"[-.]", group.name)[0]
        if service in CONNECTORS and service not in used and not group.consumers:
            yield Finding(
                f"group {group.name}", "warn",
                f"{service} is not in use, and the bus keeps all messages for it ({group.lag + group.waiting} by now)",
                f"if it stays so: microclaw bus sub rm {group.name}",
            )


def sandbox(deep: bool) -> Callable[[Context], Iterator[Finding]]:
    """Whether agents can run: each backend that the configuration admits is probed, as the service does it."""

    def look(context: Context) -> Iterator[Finding]:
        from microclaw.core.settings import Settings
        from microclaw.sandbox.backend import EngineMissing, ProbeResult
        from microclaw.sandbox.choose import ORDER, choose, make

        try:
            settings = context.settings.sandbox
        except UsageError:
            settings = Settings().sandbox
        names = ORDER.get(sys.platform, ()) if settings.backend == "auto" else (settings.backend,)

        async def probe_all() -> list[ProbeResult]:
            return [await make(name, context.home.private, settings.image).probe(deep=deep) for name in names]

        probed = asyncio.run(probe_all())
        usable = [one for one in probed if one.usable]
        for one in probed:
            if one.usable:
                measured = "; ".join(f"{name}: {value}" for name, value in one.measured.items())
                detail = " ".join(filter(None, ("works", one.version, f"({measured})" if measured else "")))
                yield Finding(f"sandbox {one.backend}", "ok", detail)
            else:
                yield Finding(f"sandbox {one.backend}", "ok" if usable else "warn", f"not usable: {one.reason}")
        if not usable:
            try:
                asyncio.run(choose(settings.backend, context.home.private, settings.image))
            except EngineMissing as error:
                remedy = str(error).rpartition("To have one, ")[2]
                yield Finding("sandbox", "fail", "agents can't run: no sandbox works here", remedy)

    return look


def channels(context: Context) -> Iterator[Finding]:
    """What the connectors that are enabled need of this machine."""
    try:
        settings = context.settings.channels
    except UsageError:
        return
    for name in settings.enabled():
        if not is_installed(name):
            yield Finding(name, "fail", "its packages are not installed", f"microclaw channels add {name}")
    if not settings.imessage.enabled or not is_installed("imessage"):
        return
    from microclaw.imessage.database import CantRead, OtherSchema, opened
    from microclaw.imessage.serve import NO_ACCESS, database_path

    path = database_path(settings.imessage)
    try:
        with opened(path) as messages:
            yield Finding("imessage", "ok", f"{path}, {messages.last_rowid()} rows")
    except CantRead as error:
        yield Finding(
            "imessage", "fail", str(error),
            NO_ACCESS if error.denied else "is Messages set up on this Mac? Open it once, and log in",
        )
    except OtherSchema as error:
        yield Finding("imessage", "fail", str(error), "update MicroClaw")


def disk(context: Context) -> Iterator[Finding]:
    """Room where the journal is, and whether it can be used."""
    folder = next(path for path in (context.home.data, *context.home.data.parents) if path.exists())
    try:
        check_writable(folder)
    except Unwritable as error:
        what, _, remedy = str(error).partition(": ")
        yield Finding("disk", "fail", what, remedy)
        return
    free_mb = shutil.disk_usage(folder).free >> 20
    text = f"{free_mb / 1024:.1f} GiB free at {folder}"
    if free_mb < DISK_MB_MIN:
        yield Finding("disk", "fail", text, "make room: without it messages are refused")
    elif free_mb < DISK_MB_LOW:
        yield Finding("disk", "warn", text, "make room soon")
    else:
        yield Finding("disk", "ok", text)


def clock(context: Context) -> Iterator[Finding]:
    """The time and its zone."""
    now = time.time()
    newest = max((path.stat().st_mtime for path in _databases(context.home.data)), default=0.0)
    shown = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(now))
    if now < CLOCK_S_MIN:
        yield Finding("clock", "fail", f"{shown} is in the past", "set the clock: tasks would run at the wrong time")
    elif newest > now + 60:
        yield Finding("clock", "warn", f"{shown}, but the data is from later", "look whether the clock was set back")
    else:
        yield Finding("clock", "ok", shown)


def _databases(folder: Path) -> list[Path]:
    return list(folder.glob("*.db")) if folder.exists() else []
