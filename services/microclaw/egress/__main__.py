"""`python -m microclaw.egress`."""

from __future__ import annotations

from microclaw.bus.service import run
from microclaw.egress.serve import serve

if __name__ == "__main__":
    run("egress", serve)
