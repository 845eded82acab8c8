"""What of the past is deleted: sessions that were put aside (`/new`) and pages of conversations, once they are old or
too many. The newest are spared whatever their age, so that a clock that runs ahead does not cost everything."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from microclaw.core.groups import is_folder
from microclaw.core.home import Home
from microclaw.core.memory_files import CONVERSATIONS_FOLDER

DAY_MS = 24 * 3600 * 1000
#: Sessions of one group that were put aside: kept so long, and at most so many.
ASIDE_KEPT_MS = 90 * DAY_MS
ASIDE_MAX = 20
#: Pages in one group's `conversations`: the same.
PAGES_KEPT_MS = 730 * DAY_MS
PAGES_MAX = 1_000
#: Of each, the newest so many stay whatever their age.
SPARED = 5

_ASIDE = re.compile(r"(?P<group>.+)\.stale-(?P<ms>\d{1,15})")
#: As `agent.archive` names them; what somebody put there under another name is theirs.
_PAGE = re.compile(r"(?P<day>\d{4}-\d{2}-\d{2})-[0-9a-f]{8}\.md")

log = logging.getLogger("microclaw.sandbox")


@dataclass(frozen=True, slots=True)
class Gone:
    """How many were deleted."""

    sessions: int
    pages: int


def tidy(home: Home, now_ms: int) -> Gone:
    """Delete what is too old or too much. What can't be deleted is logged, and tried again the next time."""
    gone = Gone(_sessions(home.sessions, now_ms), sum(_pages(group, now_ms) for group in _folders(home.groups)))
    if gone.sessions or gone.pages:
        log.info("old conversations deleted", extra={"sessions": gone.sessions, "pages": gone.pages})
    return gone


def superfluous(made_ms: Mapping[str, int], now_ms: int, kept_ms: int, number_max: int) -> list[str]:
    """Which of these (name → when it was made) are to go. Pure."""
    newest_first = sorted(made_ms, key=lambda name: (made_ms[name], name), reverse=True)
    return [
        name for place, name in enumerate(newest_first)
        if place >= number_max or (place >= SPARED and now_ms - made_ms[name] > kept_ms)
    ]


def _sessions(folder: Path, now_ms: int) -> int:
    aside: dict[str, dict[str, int]] = {}
    for path in _folders(folder):
        if (found := _ASIDE.fullmatch(path.name)) and is_folder(found["group"]):
            aside.setdefault(found["group"], {})[path.name] = int(found["ms"])
    gone = 0
    for made_ms in aside.values():
        for name in superfluous(made_ms, now_ms, ASIDE_KEPT_MS, ASIDE_MAX):
            try:
                # An agent wrote in it: this follows no link, wherever it stands.
                shutil.rmtree(folder / name)
                gone += 1
            except OSError as error:
                log.warning("an old session could not be deleted", extra={"session": name, "why": str(error)})
    return gone


def _pages(group: Path, now_ms: int) -> int:
    """The agent can put a link where the folder should be, and does not thereby choose what is deleted."""
    gone = 0
    try:
        handle = os.open(group / CONVERSATIONS_FOLDER, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        names = os.listdir(handle)  # noqa: PTH208 - of the folder that was opened, whatever stands at its path now
        made_ms = {name: at_ms for name in names if (at_ms := _page_ms(name)) is not None}
        for name in superfluous(made_ms, now_ms, PAGES_KEPT_MS, PAGES_MAX):
            try:
                os.unlink(name, dir_fd=handle)
                gone += 1
            except OSError as error:
                log.warning("an old page could not be deleted", extra={"group": group.name, "why": str(error)})
    finally:
        os.close(handle)
    return gone


def _page_ms(name: str) -> int | None:
    """When a page was made, by its name; None = it is none."""
    found = _PAGE.fullmatch(name)
    if found is None:
        return None
    try:
        return int(datetime.fromisoformat(found["day"]).replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError:
        return None


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    except OSError:
        return []
