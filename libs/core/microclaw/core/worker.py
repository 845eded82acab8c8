"""What the sandbox service and the agent inside a sandbox say to each other.

One JSON object a line over the worker's standard input and output, UTF-8, at most `LINE_BYTES_MAX` a line. A worker
serves one group and lives through many turns. It keeps a turn's steps in its session folder *before* it acts on them,
so a turn that is given again under the same `run_id` after a crash goes on where it was: `call_id`s and the answer stay
the same, which lets the host recognise repeats.

Paths inside every sandbox: `/workspace/group` (the group's folder, writable), `/workspace/session` (transcripts,
writable), `/workspace/global` (shared memory, writable for the main group alone, may be absent), `/workspace/project`
(main group only, read-only), `/run/egress/egress.sock` (the only door out), `/tmp` (small tmpfs).
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import msgspec

T = TypeVar("T")

#: A longer line is cut off and the worker is ended.
LINE_BYTES_MAX = 1 << 20
#: A turn that goes on giving results (`send_message`) lasts so many times its deadline at most: each result starts it
#: anew, but not for ever.
DEADLINES_MAX = 4
#: How often what the model is writing is told, seconds, and how much of it, characters.
WRITING_EVERY_S = 1.0
WRITING_CHARS_MAX = 3_500


class HostLine(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Host to worker."""


class Setup(HostLine, frozen=True, kw_only=True, tag="setup"):
    """First line of all: who you are. `backend`: local | scripted | anthropic | openai."""

    group: str
    chat: str
    is_main: bool
    assistant_name: str
    timezone: str
    backend: str
    model: str = ""
    max_tokens: int = 4096
    max_steps: int = 40
    #: Tokens that all messages of the model in one turn may use together, in and out.
    turn_tokens_max: int = 2_000_000


class Turn(HostLine, frozen=True, kw_only=True, tag="turn"):
    """Do this. Exactly one `TurnDone` with the same `run_id` answers it. `session` isolated = forget afterwards."""

    run_id: str
    prompt: str
    #: Now, by the host's clock: the worker decides nothing by its own.
    now_ms: int
    session: Literal["group", "isolated"] = "group"
    is_task: bool = False
    deadline_s: int = 1800
    #: `compact`: have the conversation told to the model as a summary from now on; `uncompact`: take that back. The
    #: prompt is empty then, and the end's text is for the owner.
    do: Literal["answer", "compact", "uncompact"] = "answer"
    #: Run this shell script first; the model is asked only if it says so (`core.check`).
    script: str = ""
    #: The model for this turn, "" = the usual one.
    model: str = ""
    #: What is to be remembered: the memory files as the host keeps them (`core.memory_files.told`), whatever lies in
    #: the group's folder.
    memory: str = ""


class ToolReply(HostLine, frozen=True, kw_only=True, tag="tool_reply"):
    """The answer to a `ToolCall`: `text` goes to the model as it is."""

    run_id: str
    call_id: str
    ok: bool
    text: str


class Close(HostLine, frozen=True, kw_only=True, tag="close"):
    """Finish the turn under way, if any, and exit 0."""


class WorkerLine(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Worker to host."""


class Ready(WorkerLine, frozen=True, kw_only=True, tag="ready"):
    pid: int


class Alive(WorkerLine, frozen=True, kw_only=True, tag="alive"):
    """A sign of life, at least every 10 s while a turn is under way."""

    run_id: str
    doing: str = ""


class Writing(WorkerLine, frozen=True, kw_only=True, tag="writing"):
    """What the model has written of its message so far: worth showing, and nothing else. At most one in
    `WRITING_EVERY_S`."""

    run_id: str
    #: Its beginning, at most `WRITING_CHARS_MAX`.
    text: str


class ToolCall(WorkerLine, frozen=True, kw_only=True, tag="tool_call"):
    """A tool that only the host can carry out (`HOST_TOOLS`). `call_id` is stable across a repeated turn."""

    run_id: str
    call_id: str
    name: str
    args: dict[str, Any]


class TurnDone(WorkerLine, frozen=True, kw_only=True, tag="turn_done"):
    """The turn's end. `text` is what is to be said in the chat ("" = nothing)."""

    run_id: str
    ok: bool
    text: str = ""
    error: str = ""
    #: `model_down` and `crashed` are worth another try; `bad_key`, `bad_request`, `too_long`, `budget` are not.
    error_code: Literal[
        "", "model_down", "rate_limited", "bad_key", "bad_request", "too_long", "budget", "stale_session", "crashed",
        "check_failed",
    ] = ""
    #: The script said that there is nothing to do: the model was not asked.
    skipped: bool = False
    steps: int = 0
    #: The conversation had become too long and was compacted for this turn: where its text is now, for the owner.
    compacted: str = ""


class Note(WorkerLine, frozen=True, kw_only=True, tag="note"):
    """For the log. Never the user's text."""

    text: str


#: Tools that the agent asks of the host; the others run inside the sandbox.
HOST_TOOLS = (
    "send_message", "schedule_task", "list_tasks", "pause_task", "resume_task", "cancel_task", "update_task",
    "register_group", "list_groups", "search_messages", "send_file", "ask_user",
)

#: No tool of the model's: before the agent runs a command that destroys something, it asks whether it may.
ALLOW_COMMAND = "allow_command"
#: Of these, the ones by which something is said in a chat: each starts the turn's time anew.
SAYING_TOOLS = ("send_message", "send_file", "ask_user")

HostToWorker = Setup | Turn | ToolReply | Close
WorkerToHost = Ready | Alive | Writing | ToolCall | TurnDone | Note

_host_decoder: msgspec.json.Decoder[HostToWorker] = msgspec.json.Decoder(HostToWorker)
_worker_decoder: msgspec.json.Decoder[WorkerToHost] = msgspec.json.Decoder(WorkerToHost)


def encode_line(line: HostLine | WorkerLine) -> bytes:
    """One line, newline included."""
    return msgspec.json.encode(line) + b"\n"


def decode_host_line(raw: bytes) -> HostToWorker:
    """Raises msgspec.ValidationError or msgspec.DecodeError."""
    return decode_deep(_host_decoder, raw)


def decode_worker_line(raw: bytes) -> WorkerToHost:
    """Raises msgspec.ValidationError or msgspec.DecodeError."""
    return decode_deep(_worker_decoder, raw)


def decode_deep(decoder: msgspec.json.Decoder[T], raw: bytes) -> T:
    """What somebody wrote whom we don't trust. Raises msgspec.DecodeError, also where msgspec gives up in another way:
    arrays in arrays, deeper than it follows."""
    try:
        return decoder.decode(raw)
    except RecursionError as error:
        raise msgspec.DecodeError("nested too deep") from error
