"""The sandbox process."""

from __future__ import annotations

from microclaw.bus.service import run
from microclaw.sandbox.serve import serve

if __name__ == "__main__":
    run("sandbox", serve)
