"""Restarting all services by the owner's word in the chat: what is to be done next. Pure.

Nothing is stopped: a service is told to end (it finishes or gives back what it has), and supervisord starts it again by
itself. So whoever is killed on the way leaves nothing standing still, and what is left to be done follows from when
each process was started.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

#: Restarted last, in this order: the bus, and who looks after the restart.
LAST = ("broker", "router")
#: Not restarted: supervisord's own listener.
NOT_ONES = frozenset({"watch"})
#: A service that has not ended by then is killed, seconds; what it had is given to its next life.
END_WAIT_S = 15.0
#: A restart that is not over by then is told as it stands, ms.
WHOLE_MS_MAX = 180_000


class Process(Protocol):
    """A program as supervisord sees it (`bus.supervisor.Process`)."""

    @property
    def name(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def since_s(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Step:
    """What to do now. All empty and not `is_over`: wait."""

    #: To be told to end, to be killed, and to be started (supervisord had given them up).
    end: tuple[str, ...] = ()
    kill: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    #: Every service that ran has been started anew, or the time is over; `missing` are not running then.
    is_over: bool = False
    missing: tuple[str, ...] = ()


def next_step(
    processes: Iterable[Process], told_s: Mapping[str, float], *, asked_ms: int, now_ms: int, steady_s: float
) -> Step:
    """The next step of a restart that was asked for at `asked_ms` (Unix).

    :param told_s: when this life told which service to end, by the steady clock.
    """
    known = [process for process in processes if process.name not in NOT_ONES]
    # What the owner stopped, or nobody asks for, stays as it is.
    used = [process for process in known if process.state not in ("STOPPED", "STOPPING")]
    # supervisord counts in whole seconds: a process of the same second counts as old, and is restarted once more.
    old = {process.name for process in used if process.since_s * 1000 <= asked_ms}
    not_up = tuple(process.name for process in used if process.state != "RUNNING")
    # A clock that was set back says of every new process that it is an old one.
    if not 0 <= now_ms - asked_ms <= WHOLE_MS_MAX:
        # The last ones may only be waiting for the others.
        return Step(is_over=True, missing=tuple(sorted((old - set(LAST)) | set(not_up) or old)))
    for stage in (old - set(LAST), *({name} & old for name in LAST)):
        if stage:
            running = {process.name for process in used if process.state == "RUNNING"} & stage
            return Step(
                end=tuple(sorted(name for name in running if name not in told_s)),
                kill=tuple(sorted(
                    name for name in running if steady_s - told_s.get(name, steady_s) > END_WAIT_S
                )),
                start=tuple(sorted(
                    process.name for process in used if process.name in stage and process.state == "FATAL"
                )),
            )
        if any(name not in LAST for name in not_up):
            return Step()
    return Step(is_over=not not_up)


def begin_text() -> str:
    """The answer to `/restart`."""
    return "I restart all my services, and say when I am back. What is under way goes on then."


def end_text(missing: tuple[str, ...], took_ms: int) -> str:
    """What is said when it is over."""
    if missing:
        return (
            f"The restart is not over after {max(0, took_ms) // 1000} s: {', '.join(missing)} did not come back; see "
            "`microclaw status`."
        )
    return f"I am back: all services were restarted, in {max(1, took_ms // 1000)} s."
