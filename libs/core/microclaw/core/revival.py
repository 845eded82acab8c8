"""What to do about services that die: a pure state machine, carried out by `watch`.

supervisord gives a program up (FATAL) when it dies at its start a few times, and starts one that dies later again at
once, for ever. Here the first is revived, after pauses that grow, and the second is held back when it goes round in
circles. Nothing is ever given up: what was outside (a full disk, a bad file) may be mended.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Pause before the first revival; each further one doubles it.
PAUSE_S_MIN = 5.0
PAUSE_S_MAX = 300.0
#: A service that ran so long is well again: its pauses start anew.
WELL_AFTER_S = 120.0
#: So many lives in a row that were shorter than this are a loop. (On a loaded machine a program that fails at its start
#: may take longer than `startsecs` for it: supervisord then takes it for started, and never gives it up.)
SHORT_LIFE_S = 5.0
SHORT_LIVES_COUNT = 6


@dataclass(frozen=True, slots=True)
class Tell:
    """The owner should know this."""

    service: str
    state: str
    detail: str


@dataclass(frozen=True, slots=True)
class Hold:
    """Stop it: it dies over and over. A `Start` follows in time."""

    service: str


@dataclass(frozen=True, slots=True)
class Start:
    """Start it again."""

    service: str


Command = Tell | Hold | Start


@dataclass(slots=True)
class _Service:
    short_lives: int = 0
    pauses: int = 0
    start_at: float | None = None
    running_since: float | None = None


class Revival:
    """One installation's services. Time is passed in: monotonic seconds."""

    def __init__(self) -> None:
        self._services: dict[str, _Service] = {}

    def on_state(self, service: str, state: str, now: float, *, expected: bool = False) -> list[Command]:
        """supervisord reports a new state. `expected`: the end was asked for or regular."""
        known = self._services.setdefault(service, _Service())
        if state == "RUNNING":
            known.running_since = now
            known.start_at = None
            return []
        if state == "FATAL":
            return self._pause(known, service, now, "FATAL", "it died at its start again and again", hold=False)
        if state == "STOPPED" and known.start_at is None:
            # A person stopped it: forget what was.
            self._services.pop(service)
            return []
        if state == "EXITED" and not expected:
            return self._on_death(known, service, now)
        return []

    def due(self, now: float) -> list[Command]:
        """What is to be started now."""
        ready: list[Command] = []
        for service, known in self._services.items():
            if known.start_at is not None and known.start_at <= now:
                known.start_at = None
                ready.append(Start(service))
        return ready

    def next_due(self) -> float | None:
        """When `due` will have something, None = not before another event."""
        return min((known.start_at for known in self._services.values() if known.start_at is not None), default=None)

    def _on_death(self, known: _Service, service: str, now: float) -> list[Command]:
        lived_s = 0.0 if known.running_since is None else now - known.running_since
        known.running_since = None
        if lived_s >= WELL_AFTER_S:
            known.pauses = 0
        known.short_lives = known.short_lives + 1 if lived_s < SHORT_LIFE_S else 0
        if known.short_lives < SHORT_LIVES_COUNT:
            return []
        known.short_lives = 0
        what = f"it died {SHORT_LIVES_COUNT} times in a row within {SHORT_LIFE_S:.0f} s"
        return self._pause(known, service, now, "LOOP", what, hold=True)

    def _pause(
        self, known: _Service, service: str, now: float, state: str, what: str, *, hold: bool
    ) -> list[Command]:
        pause_s = min(PAUSE_S_MAX, PAUSE_S_MIN * 2.0**known.pauses)
        known.pauses = min(known.pauses + 1, 16)
        known.start_at = now + pause_s
        tell = Tell(service, state, f"{what}; next try in {pause_s:.0f} s; see `microclaw logs {service}`")
        return [tell, Hold(service)] if hold else [tell]
