"""What is looked at besides the messages: the journal's file, the audit log, the queue, the logs."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from pathlib import Path

from microclaw.core.home import Home
from microclaw.core.requests import AuditVerified, Runs, RunsAsked, VerifyAudit
from microclaw.prove.mesh_run import MeshRun

#: Characters of a logged error that are shown.
ERROR_CHARS = 160


async def of_running(mesh: MeshRun) -> list[str]:
    """Faults of a mesh that is quiet: one line each."""
    found = []
    runs = await mesh.ask(RunsAsked(), Runs)
    found += [f"{row.group} still has a run {row.state}: {row.error}" for row in (*runs.running, *runs.waiting)]
    audit = await mesh.ask(VerifyAudit(), AuditVerified)
    found += [f"audit log, entry {fault.number}: {fault.what}: {fault.detail}" for fault in audit.faults]
    return found


def of_stopped(home: Home) -> list[str]:
    """Faults in the files of a mesh that has ended: one line each."""
    found = []
    for path in sorted(home.data.glob("*.db")):
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
            (whole,) = db.execute("PRAGMA integrity_check").fetchone()
            if whole != "ok":
                found.append(f"{path.name} is damaged: {whole}")
            if path.name == "journal.db":
                found += _of_journal(db)
    return found


def _of_journal(db: sqlite3.Connection) -> list[str]:
    # Nothing is old enough for retention, so every session begins at 1.
    gaps = db.execute(
        "SELECT s.name, count(*), min(m.seq), max(m.seq) FROM messages m JOIN sessions s ON s.no = m.session"
        " GROUP BY m.session HAVING min(m.seq) != 1 OR max(m.seq) != count(*)"
    ).fetchall()
    dead = db.execute(
        "SELECT g.name, d.reason, d.last_error, count(*) FROM dead d JOIN groups g ON g.no = d.grp GROUP BY 1, 2, 3"
    ).fetchall()
    return [
        *(f"journal: {name} has {count} messages from {first} to {last}" for name, count, first, last in gaps),
        *(f"{count} dead letters of {group}: {reason} ({error})" for group, reason, error, count in dead),
    ]


def done_by_bash(home: Home) -> dict[str, list[str]]:
    """What the agents' commands wrote down, by group."""
    return {path.parent.name: path.read_text().split() for path in home.groups.glob("*/done")}


def logged_errors(home: Home) -> Counter[str]:
    """Errors in the logs, alike ones counted. Not a fault by themselves: a killed mesh complains."""
    found: Counter[str] = Counter()
    for path in home.logs.glob("*.log*"):
        for line in path.read_text(errors="replace").splitlines():
            if '"level": "error"' in line or "Error" in line or "Traceback" in line:
                found[_short(path, line)] += 1
    return found


def _short(path: Path, line: str) -> str:
    try:
        entry = json.loads(line)
    except ValueError:
        return f"{path.stem}: {line.strip()[:ERROR_CHARS]}"
    last = str(entry.get("trace", "")).strip().splitlines()[-1:]
    return " ".join([f"{path.stem}: {entry.get('event', '')}", *last])[:ERROR_CHARS]
