"""`python -m microclaw.telegram`: the bot."""

from microclaw.bus.service import run
from microclaw.telegram.serve import serve

if __name__ == "__main__":
    run("telegram", serve)
