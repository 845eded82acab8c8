"""What is done in which round: pure, from the seed alone."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass

#: Everything that is supervised and on the bus.
SERVICES = ("broker", "router", "queue", "scheduler", "sandbox", "egress", "console")
#: Where a broker is killed: its transaction is open and empty; the rows are in it; it is on disk and nobody was told.
POINTS = ("begun", "stored", "committed")
#: Kind of act → how often it is drawn, relatively.
WEIGHTS = {
    "kill": 30, "stop": 12, "restart": 12, "worker": 14, "broker-at": 12, "disk-full": 6, "power-cut": 8, "clock": 8,
    "supervisord": 2,
}
#: A process is stopped (SIGSTOP), the disk is full for so long, ms.
HOLD_MS = (200, 2_500)
#: Now and then a process is stopped for longer than the broker's patience with a silent client.
LONG_HOLD_MS = 17_000
LONG_HOLD_EVERY = 12
#: The broker is told to die with one of the next so many commits.
COMMITS_MAX = 30
#: The clock is set by so much, ms.
JUMPS_MS = (-3_600_000, -90_000, 90_000, 3_600_000)
#: Before each act, ms.
PAUSE_MS_MAX = 400
#: One act in so many is followed by the next before its recovery.
OVERLAP_EVERY = 4


@dataclass(frozen=True, slots=True)
class Act:
    """One act of harm."""

    #: A key of `WEIGHTS`.
    kind: str
    #: The service it is done to, "" = none by name.
    target: str = ""
    #: How long it lasts, ms.
    hold_ms: int = 0
    #: `broker-at`, `power-cut`: where, and with the how manieth commit from now.
    point: str = ""
    commit: int = 0
    #: `clock`: set by so much, ms.
    jump_ms: int = 0
    #: What chance decides while it is done (which worker, which sectors survive).
    seed: int = 0

    def __str__(self) -> str:
        match self.kind:
            case "kill":
                return f"kill -9 {self.target}"
            case "stop":
                return f"stop {self.target} for {self.hold_ms / 1000:.1f} s"
            case "restart":
                return f"restart {self.target}"
            case "worker":
                return "kill -9 a worker"
            case "broker-at":
                return f"broker dies with commit {self.commit} {self.point}"
            case "disk-full":
                return f"disk full for {self.hold_ms / 1000:.1f} s"
            case "power-cut":
                return f"power cut with commit {self.commit} {self.point}"
            case "clock":
                return f"clock set by {self.jump_ms / 1000:+.0f} s"
        return "kill -9 supervisord"


@dataclass(frozen=True, slots=True)
class Round:
    """An act, and what is around it."""

    number: int
    act: Act
    #: Traffic alone for so long before it, ms.
    pause_ms: int
    #: The next act comes before this one's recovery.
    overlapped: bool


def plan(seed: int, rounds: int, without: Collection[str] = ()) -> list[Round]:
    """The rounds of a seed. `without`: kinds that can't be done here; with others left out it is another plan."""
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    kinds = [kind for kind in WEIGHTS if kind not in without]
    weights = [WEIGHTS[kind] for kind in kinds]
    return [
        Round(
            number=number, act=_act(chance, chance.choices(kinds, weights)[0]),
            pause_ms=chance.randrange(PAUSE_MS_MAX), overlapped=chance.randrange(OVERLAP_EVERY) == 0,
        )
        for number in range(1, rounds + 1)
    ]


def _act(chance: random.Random, kind: str) -> Act:
    target = chance.choice(SERVICES)
    hold_ms = chance.randrange(*HOLD_MS)
    long = chance.randrange(LONG_HOLD_EVERY) == 0
    point, commit, jump_ms = chance.choice(POINTS), chance.randrange(1, COMMITS_MAX + 1), chance.choice(JUMPS_MS)
    seed = chance.getrandbits(32)
    match kind:
        case "kill" | "restart":
            return Act(kind, target=target)
        case "stop":
            return Act(kind, target=target, hold_ms=LONG_HOLD_MS if long else hold_ms)
        case "worker":
            return Act(kind, target="sandbox", seed=seed)
        case "broker-at":
            return Act(kind, target="broker", point=point, commit=commit)
        case "disk-full":
            return Act(kind, target="broker", hold_ms=hold_ms)
        case "power-cut":
            return Act(kind, target="broker", point=point, commit=commit, seed=seed)
        case "clock":
            return Act(kind, jump_ms=jump_ms)
    return Act(kind)
