"""A broker's engine whose write-ahead log is copied beside its traffic, on a machine that loses its power some time:
`python -m … JOURNAL SEED`. Prints the id of each message that is acknowledged."""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path

from tests.engine_alone import EngineAlone, envelope

from microclaw.bus import checkpoints, journal
from microclaw.bus.checkpoints import Checkpoints
from microclaw.bus.journal import Journal
from microclaw.core.ids import new_id
from microclaw.prove.powercut import Machine

#: A log is copied every few dozen turns, and the power goes within the first few hundred.
checkpoints.CHECKPOINT_PAGES, checkpoints.LAST_PAGES = 60, 8
journal.PREWARM_BYTES = 0
TURNS_MAX = 400
MESSAGES_A_TURN = 5


def main(path: Path, seed: int) -> None:
    chance = random.Random(seed)
    machine = Machine(seed)
    kept = Journal(path, driver=machine.driver())
    alone = EngineAlone(kept)
    copying = alone.engine.upkeep.checkpoints = Checkpoints(kept, time.monotonic)
    peer = alone.connect("p")
    last = chance.randrange(TURNS_MAX)
    turn = 0
    # Half of the cuts wait for the thread to be at it.
    while turn < last or (seed % 2 and copying._copying is None):
        turn += 1
        ids = [new_id(turn) for _ in range(MESSAGES_A_TURN)]
        for message_id in ids:
            alone.publish(peer, envelope("p", f"s{chance.randrange(50)}", message_id, text="x" * 200))
        alone.turn()
        for message_id in ids:
            print(message_id.hex(), flush=True)
        alone.engine.upkeep.tidy(now=chance.random() < 0.1)
    machine.cut()
    os._exit(9)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
