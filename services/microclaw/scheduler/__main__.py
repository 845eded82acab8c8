"""`python -m microclaw.scheduler`."""

from __future__ import annotations

from microclaw.bus.service import run
from microclaw.scheduler.serve import serve

if __name__ == "__main__":
    run("scheduler", serve)
