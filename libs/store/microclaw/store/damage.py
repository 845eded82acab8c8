"""A database that can't be used: whether it is damaged or only closed to us decides what to do about it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from microclaw.core.errors import UnhealthyError

#: The bytes themselves are wrong; everything else (another owner, a read-only disk, another opener) leaves them whole.
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def unreadable(path: Path, error: BaseException | None) -> UnhealthyError:
    """As one line: what, why, what to do next."""
    # The low byte is the primary code; the others say more of the same.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    if code not in _DAMAGED:
        return UnhealthyError(
            f"{path} can't be used ({error}): it is not damaged, but closed to this user, read-only or in use: "
            f"ls -la {path.parent}"
        )
    copies = sorted((path.parent / "backups").glob(f"{path.stem}_*.db"), key=lambda file: file.name.split("-")[-1])
    remedy = (
        f"put its newest copy there: cp {copies[-1]} {path}" if copies
        else "there is no copy of it yet: move it away, and a new one is made without what was in it"
    )
    return UnhealthyError(f"{path} is damaged ({error}): `microclaw down`, then {remedy}")
