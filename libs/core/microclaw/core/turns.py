"""One turn of a worker, as decisions: is it still alive, may it go on after a crash, and what does its end mean?"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import msgspec

from microclaw.core.heartbeat import worth_saying
from microclaw.core.ids import derived_id
from microclaw.core.kinds import RunFinished, RunGranted
from microclaw.core.prompt import format_messages, format_task, split
from microclaw.core.tasks import RESULT_CHARS_MAX, SKIPPED_RESULT
from microclaw.core.text import strip_internal
from microclaw.core.worker import DEADLINES_MAX, LINE_BYTES_MAX, TurnDone

#: A worker without a sign of life for so long is ended; it should give one at least every 10 s.
SILENCE_S_MAX = 60.0
#: What the host gives a worker beyond the turn's own deadline, to end it by itself.
GRACE_S = 30.0
#: A turn whose worker died goes on in a new worker so often, before the run counts as failed.
RESUMES_MAX = 2
#: A grant delivered so often without an end is given up: something about it ends this service again and again.
DELIVERIES_MAX = 20
#: Longest text of one reply, bytes of UTF-8: an envelope holds it with room to spare.
REPLY_BYTES_MAX = 900_000
#: Longest prompt, bytes as JSON: it has to fit a line to the worker with the rest of the turn.
PROMPT_BYTES_MAX = LINE_BYTES_MAX * 3 // 4
#: Longest error of a run, characters.
ERROR_CHARS_MAX = 300
#: Of the last words of a worker that died, in the error of its run.
LAST_WORDS_CHARS = 200

#: Ends of a turn that another try may mend.
PASSING = frozenset({"model_down", "rate_limited", "stale_session", "crashed"})

_SAID = {
    "model_down": "the model can't be reached",
    "rate_limited": "the model is being asked too often",
    "bad_key": "the model refused the key; set it: microclaw secrets set {key}",
    "bad_request": "the model refused the request; check model.name and model.backend in the configuration",
    "too_long": "the conversation is too long for the model; start a new one",
    "budget": "the turn used up what it may",
    "stale_session": "the agent's session was lost and starts anew",
    "crashed": "the agent broke",
    "check_failed": "the check before the task failed",
}


class Sign(StrEnum):
    """What the watch thinks of a turn."""

    WELL = "well"
    #: No sign of life for `SILENCE_S_MAX`.
    SILENT = "silent"
    #: Past its deadline and the grace.
    OVERDUE = "overdue"


def hard_timeout_s(timeout_s: float, idle_timeout_s: float, own_ms: int = 0) -> float:
    """When a worker that gives no result is ended, seconds: after the time-out, and not before an idle one would be.

    :param own_ms: the group's own time-out, 0 = none. It never outlasts the longest turn of all groups, which the
        queue's lease is reckoned with.
    """
    least_s = idle_timeout_s + GRACE_S
    usual_s = max(timeout_s, least_s)
    return min(max(own_ms / 1000, least_s), longest_turn_s(usual_s)) if own_ms else usual_s


def longest_turn_s(hard_s: float) -> float:
    """How long a turn can last that goes on giving results."""
    return DEADLINES_MAX * hard_s


class Watch:
    """Looks after one turn. All times are seconds of one steady clock.

    The worker is given `run_timeout_s` for the turn, and is ended `GRACE_S` later; every result it gives starts that
    time anew, until `longest_s` (0 = as `longest_turn_s` says) is over.
    """

    def __init__(self, now_s: float, run_timeout_s: float, longest_s: float = 0) -> None:
        self._heard_s = now_s
        self._hard_s = run_timeout_s + GRACE_S
        self._last_s = now_s + (longest_s or longest_turn_s(self._hard_s))
        self._ends_s = min(now_s + self._hard_s, self._last_s)

    def heard(self, now_s: float) -> None:
        """The worker said something."""
        self._heard_s = now_s

    def result(self, now_s: float) -> None:
        """The worker gave a result."""
        self.heard(now_s)
        self._ends_s = max(self._ends_s, min(now_s + self._hard_s, self._last_s))

    @property
    def look_again_s(self) -> float:
        """When `sign` may change if nothing is heard until then."""
        return min(self._heard_s + SILENCE_S_MAX, self._ends_s)

    def sign(self, now_s: float) -> Sign:
        """How the turn stands."""
        if now_s >= self._ends_s:
            return Sign.OVERDUE
        return Sign.SILENT if now_s >= self._heard_s + SILENCE_S_MAX else Sign.WELL

    def left_s(self, now_s: float) -> int:
        """What is left of the turn's own time: whole seconds, at least 1."""
        return max(1, int(self._ends_s - GRACE_S - now_s))


class Loss(StrEnum):
    """How a worker was lost in the middle of a turn."""

    #: It ended by itself, or somebody killed it.
    DIED = "died"
    OUT_OF_MEMORY = "out of memory"
    #: It wrote more than it may, or a line that was too long.
    TOO_LOUD = "too loud"
    #: It wrote what makes no sense.
    GARBLED = "garbled"
    SILENT = "silent"
    OVERDUE = "overdue"
    #: The owner said so.
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Lost:
    """A worker is gone; `detail` is an exit code, a bound, …"""

    how: Loss
    detail: str = ""
    #: The end of what it wrote to its standard error.
    last_words: str = ""

    def __str__(self) -> str:
        """What happened; the last words, if any, are the end of it."""
        words = " ".join(self.last_words.split())[-LAST_WORDS_CHARS:]
        return f"{self._happened()}: {words}" if words else self._happened()

    def _happened(self) -> str:
        said = {
            Loss.DIED: f"the agent's worker ended in the middle of the turn ({self.detail})",
            Loss.OUT_OF_MEMORY: f"the agent's worker ran out of memory ({self.detail}); raise sandbox.memory_mb",
            Loss.TOO_LOUD: "the agent's worker wrote more than it may and was ended",
            Loss.GARBLED: "the agent's worker wrote lines that make no sense and was ended",
            Loss.SILENT: f"the agent's worker gave no sign of life for {SILENCE_S_MAX:.0f} s and was ended",
            Loss.STOPPED: "stopped by the owner",
            Loss.OVERDUE: f"the turn took longer than {self.detail} and was ended; raise sandbox.run_timeout_s",
        }
        return said[self.how]


def prompt_of(grant: RunGranted, timezone: str) -> str:
    """What the agent is asked. Messages that don't fit a line to the worker are left out, the oldest first, with a
    note: escaped, a run's messages can be several times as long as they were in its grant."""
    if grant.task is not None:
        return format_task(grant.task.prompt)
    prompt = format_messages(grant.messages, timezone=timezone)
    if len(msgspec.json.encode(prompt)) <= PROMPT_BYTES_MAX:
        return prompt
    newest = split(grant.messages, PROMPT_BYTES_MAX)[-1]
    missing = len(grant.messages) - len(newest)
    note = f"[{missing} earlier messages are left out: together they are too long]\n" if missing else ""
    return note + format_messages(newest, timezone=timezone)


def cause_of(grant: RunGranted) -> bytes:
    """What a run answers, as an id that all its tries have: they differ in `run_id`, and later ones may bring newer
    messages along, but the oldest message stays the first."""
    if grant.task is not None or not grant.messages:
        return derived_id(0, "run", grant.run_id)
    # The whole message: an edited one is another request.
    return derived_id(0, "messages", grant.group, msgspec.msgpack.encode(grant.messages[0]))


def may_resume(lost: Lost, resumed: int) -> bool:
    """Whether the turn goes on in a new worker at once. What would happen again the same way may not: that is the
    queue's to try later."""
    return lost.how is Loss.DIED and resumed < RESUMES_MAX


@dataclass(frozen=True, slots=True)
class End:
    """What becomes of a run: `reply` is said in its chat ("" = nothing), `finished` goes to the queue."""

    reply: str
    finished: RunFinished


def ended(grant: RunGranted, done: TurnDone, *, visible: bool, key: str) -> End:
    """The end of a run by its worker's own word.

    :param visible: something of it reached a chat before.
    :param key: name of the secret that holds the model's key, for the owner's remedy.
    """
    answer = cut(strip_internal(done.text))
    said = worth_saying(answer) if grant.task is not None and grant.task.is_heartbeat else answer
    if done.skipped:
        return skipped(grant, SKIPPED_RESULT)
    if done.ok:
        finished = RunFinished(
            run_id=grant.run_id, attempt=grant.attempt, group=grant.group, ok=True,
            visible=visible or bool(said), result=answer[:RESULT_CHARS_MAX],
        )
        return End(said, finished)
    code = done.error_code or "crashed"
    retryable = code in PASSING
    # What is tried again will say it then; what is not says now what it has.
    reply = "" if retryable else said
    meaning = _SAID[code].format(key=key or "NAME")
    error = f"{meaning} ({done.error})" if done.error and done.error not in meaning else meaning
    return End(reply, failed(grant, error, retryable=retryable, visible=visible or bool(reply)).finished)


def skipped(grant: RunGranted, why: str) -> End:
    """The end of a task's run that had nothing to do."""
    return End("", RunFinished(
        run_id=grant.run_id, attempt=grant.attempt, group=grant.group, ok=True, result=why, skipped=True,
    ))


def failed(
    grant: RunGranted, error: str, *, retryable: bool, visible: bool = False, waiting: bool = False
) -> End:
    """The end of a run that its worker could not tell of. `waiting`: there was nothing to run it in."""
    line = " ".join(error.split())
    return End("", RunFinished(
        run_id=grant.run_id, attempt=grant.attempt, group=grant.group, ok=False, retryable=retryable, visible=visible,
        waiting=waiting, error=line if len(line) <= ERROR_CHARS_MAX else line[: ERROR_CHARS_MAX - 1] + "…",
    ))


def cut(text: str, bytes_max: int = REPLY_BYTES_MAX) -> str:
    """The text, or as much of its beginning as `bytes_max` of UTF-8 hold, with a note of what is missing."""
    raw = text.encode("utf-8", "replace")
    if len(raw) <= bytes_max:
        return text
    kept = raw[:bytes_max].decode("utf-8", "ignore")
    return f"{kept}\n[cut here: {len(text) - len(kept)} more characters]"
