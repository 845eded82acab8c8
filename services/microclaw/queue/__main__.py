"""`python -m microclaw.queue`."""

from __future__ import annotations

from microclaw.bus.service import run
from microclaw.queue.serve import serve

if __name__ == "__main__":
    run("queue", serve)
