"""What has been said and done, in words that belong to no model provider.

A *turn* is one prompt and all that follows from it; a *step* is one message of the model and the results of the tools
it called. The structs are also the transcript's content, so a field may be added but never changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

#: Result of a tool that may have done its work, or half of it, before the sandbox died.
INTERRUPTED = "interrupted: it is not known whether it completed"
#: Result of a call that was never begun because its turn ended.
NOT_RUN = "not run: the turn ended before it"


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """The model wants a tool."""

    #: `<run id>.<step>.<index>`: the same however often the turn is done again.
    call_id: str
    name: str
    args: dict[str, Any] = {}
    #: Why `args` could not be read; the tool is not run then.
    broken: str = ""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a tool gave back."""

    call_id: str
    ok: bool
    text: str


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one model call. What came from the provider's cache is in `input` too."""

    input: int = 0
    output: int = 0


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """One message of the model."""

    text: str = ""
    calls: tuple[Call, ...] = ()
    usage: Usage = Usage()
    #: The provider cut the message off at `max_tokens`.
    is_cut: bool = False


class Step:
    """A message of the model and the results of its calls so far."""

    __slots__ = ("doubt", "results", "said", "started")

    def __init__(self, said: Said) -> None:
        self.said = said
        #: Calls that were begun.
        self.started: set[str] = set()
        self.results: dict[str, Result] = {}
        #: What the model was told of its answer instead of having it sent; "" = nothing.
        self.doubt = ""

    def answers(self) -> Iterator[tuple[Call, Result]]:
        """Every call with its result; a missing one is filled in, for no provider takes a call without its result."""
        for call in self.said.calls:
            missing = INTERRUPTED if call.call_id in self.started else NOT_RUN
            yield call, self.results.get(call.call_id) or Result(call_id=call.call_id, ok=False, text=missing)


ErrorCode = Literal[
    "", "model_down", "rate_limited", "bad_key", "bad_request", "too_long", "budget", "stale_session", "crashed",
    "check_failed",
]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a turn ended; the fields of `TurnDone`."""

    ok: bool
    text: str = ""
    error: str = ""
    error_code: ErrorCode = ""
    steps: int = 0
    #: A task's check found nothing to do: the model was not asked.
    skipped: bool = False

    @property
    def is_final(self) -> bool:
        """The same turn given again gets the same answer; else it goes on from where it failed."""
        return self.ok or self.error_code not in ("model_down", "rate_limited", "crashed")


class TurnLog:
    """All that is known of one turn."""

    __slots__ = ("is_task", "now_ms", "outcome", "prompt", "run_id", "steps")

    def __init__(self, run_id: str, prompt: str, now_ms: int, is_task: bool = False) -> None:
        self.run_id = run_id
        self.prompt = prompt
        #: Now, when the turn first began: a repeat sees the same moment.
        self.now_ms = now_ms
        self.is_task = is_task
        self.steps: list[Step] = []
        self.outcome: Outcome | None = None

    @property
    def chars(self) -> int:
        """Rough size as a model reads it, in characters."""
        size = len(self.prompt)
        for step in self.steps:
            size += len(step.said.text) + len(step.doubt)
            size += sum(len(str(call.args)) for call in step.said.calls)
            size += sum(len(result.text) for result in step.results.values())
        return size

    @property
    def did(self) -> frozenset[str]:
        """Names of the tools that succeeded."""
        return frozenset(
            call.name for step in self.steps for call, result in step.answers() if result.ok
        )

    @property
    def tokens(self) -> int:
        """What the turn has cost so far."""
        return sum(step.said.usage.input + step.said.usage.output for step in self.steps)

    @property
    def is_worth_remembering(self) -> bool:
        """Later turns should know of it: it ended well, or it did something before it failed.

        A failed turn that did nothing is left out, for its messages come again in the next prompt.
        """
        if self.outcome is not None and self.outcome.ok:
            return not self.outcome.skipped
        return any(step.started or step.results for step in self.steps)


def call_id(run_id: str, step: int, index: int) -> str:
    """The name of a call: it depends on nothing that a model or a clock chose."""
    return f"{run_id}.{step}.{index}"


def provider_call_id(own: str) -> str:
    """The same name in the alphabet and the length (40) that every provider takes."""
    return "call_" + hashlib.blake2b(own.encode(), digest_size=12).hexdigest()
