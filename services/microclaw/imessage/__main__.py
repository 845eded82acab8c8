"""`python -m microclaw.imessage`: Messages on this Mac."""

from microclaw.bus.service import run
from microclaw.imessage.serve import serve

if __name__ == "__main__":
    run("imessage", serve)
