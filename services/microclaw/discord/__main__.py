"""`python -m microclaw.discord`: the connector for Discord."""

from microclaw.bus.service import run
from microclaw.discord.serve import serve

if __name__ == "__main__":
    run("discord", serve)
