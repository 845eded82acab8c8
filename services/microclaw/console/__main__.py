"""`python -m microclaw.console`: the local chat."""

from microclaw.bus.service import run
from microclaw.console.serve import serve

if __name__ == "__main__":
    run("console", serve)
