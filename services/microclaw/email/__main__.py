"""`python -m microclaw.email`: a mailbox."""

from microclaw.bus.service import run
from microclaw.email.serve import serve

if __name__ == "__main__":
    run("email", serve)
