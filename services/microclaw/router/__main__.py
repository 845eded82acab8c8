"""`python -m microclaw.router`: whose message is it, may they, is it for us."""

from microclaw.bus.service import run
from microclaw.router.serve import serve

if __name__ == "__main__":
    run("router", serve)
