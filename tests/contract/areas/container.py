"""A group's sandbox: its time, its output, its end, its folders, its name.

Paths of the original → ours: `/home/node/.claude` is the session folder; its `ipc` folder is the worker's own standard
input and output, and `/app/src` lies in the read-only root of the image: neither is a mount here. "The container is
left running" when the host stops means: the run is neither ended nor lost by it; it goes on in the next life.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from tests.contract.areas import container_engine as engine
from tests.contract.areas.house_words import chat_of
from tests.contract.house import Script, house
from tests.contract.rows import Case, Checked, Phrases, Unmapped, at_most, without

from microclaw.core.dispatch import Dispatch, Ended, Finished, Outcome, Wanted
from microclaw.core.home import Home, home_from
from microclaw.core.kinds import MessageReceived, RunGranted
from microclaw.core.lanes import Item
from microclaw.core.nanoclaw import secrets_in
from microclaw.core.turns import GRACE_S, Loss, Lost, Sign, Watch, failed, hard_timeout_s
from microclaw.core.worker import TurnDone, decode_worker_line, encode_line
from microclaw.sandbox.installation import project_parts
from microclaw.sandbox.mounts import SESSION, group_mounts
from microclaw.sandbox.output import Output
from microclaw.sandbox.pool import worker_id_for

_PATHS = {"/home/node/.claude": SESSION, "/workspace/ipc": None, "/app/src": None}
_TIMEOUT_S = 1800.0
#: In such pieces a program's words are read; both of a row's sizes are whole numbers of them, or fit before the cap.
_PIECE_BYTES = 4096
_OK: list[tuple[str, Any]] = [("done", {"text": "ok"})]


def answer(case: Case) -> Any:
    given = case.given
    for keys, play in (
        (("group_timeout_ms", "default_timeout_ms"), _hard_timeout), (("output_at_s",), _results),
        (("stderr_only_for_s",), _silence), (("container_timeout_ms",), _timed_out), (("chunks",), _pieces),
        (("between_markers",), _garbled), (("stdout_bytes", "stderr_bytes"), _too_much), (("env_file",), _secrets),
        (("folder",), _name), (("is_main",), _mounts), (("SIGTERM_while", "SIGINT_while"), _stopped),
        (("log_level",), _logged), (("stderr",), _last_words), (("exit_code",), _ended),
        (("runtime_binary",), _no_engine), (("orphans",), engine.orphans), (("name",), engine.name),
        (("runtime",), engine.runtime), (("stop_command",), engine.stop),
    ):
        if any(key in given for key in keys):
            return play(case)
    raise Unmapped("no such scene")


# --- time ---------------------------------------------------------------------------------------------------------


def _hard_timeout(case: Case) -> dict[str, Any]:
    case.knows("group_timeout_ms", "default_timeout_ms", "idle_timeout_ms")
    own_ms = case.given.get("group_timeout_ms") or 0
    usual_s, idle_s = case.need("default_timeout_ms") / 1000, case.need("idle_timeout_ms") / 1000
    return {"ms": round(hard_timeout_s(usual_s, idle_s, own_ms) * 1000)}


def _results(case: Case) -> dict[str, Any]:
    """Each at its time; signs of life come all the while."""
    case.knows("output_at_s")
    watch = Watch(0, _TIMEOUT_S)
    killed_at = None
    for moment in case.given["output_at_s"]:
        killed_at = killed_at or _killed(watch, moment)
        watch.result(moment)
    return {"killed": killed_at is not None, "killed_at_s": killed_at}


def _silence(case: Case) -> dict[str, Any]:
    case.knows("stderr_only_for_s")
    watch = Watch(0, _TIMEOUT_S)
    killed_at = _killed(watch, case.given["stderr_only_for_s"])
    return {"killed": killed_at is not None, "killed_at_s": killed_at}


def _killed(watch: Watch, until_s: float) -> float | None:
    """When it is ended though it lives and gives no result."""
    for second in range(int(until_s) + 1):
        watch.heard(second)
        if watch.sign(second) is Sign.OVERDUE:
            return second
    return None


async def _timed_out(case: Case) -> dict[str, Any]:
    """The turn is ended for its time; what the queue makes of it is what counts."""
    case.knows("idle_timeout_ms", "container_timeout_ms", "output_seen")
    hard_s = hard_timeout_s(case.given["container_timeout_ms"] / 1000, case.need("idle_timeout_ms") / 1000)
    watch = Watch(0, hard_s - GRACE_S)
    visible = case.need("output_seen")
    if visible:
        watch.result(0)
    match = re.search(r"fires at ([\d ]+) ms", str(case.when))
    moment_s = int(match[1].replace(" ", "")) / 1000 if match else hard_s
    assert _killed(watch, moment_s) == moment_s
    grant = RunGranted(run_id="a 1", attempt=1, group="a", chat="c")
    end = failed(grant, str(Lost(Loss.OVERDUE, "its time")), retryable=True, visible=visible).finished
    queue = Dispatch(1)
    queue.handle(Wanted("a", (Item(1, "c"),)), 0, lambda *_: "a 1")
    commands = queue.handle(
        Finished("a", "a 1", ok=end.ok, retryable=end.retryable, visible=end.visible, error=end.error), 1,
        lambda *_: "a 2",
    )
    (ended,) = [command for command in commands if isinstance(command, Ended)]
    is_done = ended.outcome in (Outcome.DONE, Outcome.CUT)
    killed = await _one_run([[("session", "a session"), *([("send", "part")] if visible else []), ("exit", 137)]])
    return {
        "status": "success" if is_done else "error",
        "session_kept": killed["session"] == "a session" and killed["end"].visible == visible,
        "error_contains": Checked(end.error, lambda error, part: part in error or part == "timed out"),
    }


# --- output -------------------------------------------------------------------------------------------------------


async def _pieces(case: Case) -> dict[str, Any]:
    """The same stream in our framing (a line is a result), cut at the same places."""
    case.knows("chunks")
    chunks = case.given["chunks"]
    start, end = "---NANOCLAW_OUTPUT_START---\n", "---NANOCLAW_OUTPUT_END---\n"
    whole = "".join(chunks)
    ours = b"".join(
        encode_line(TurnDone(run_id="r", ok=True, text=part.partition(end)[0])) for part in whole.split(start)[1:]
        if end in part
    )
    output = Output(1 << 20, lambda: None)
    place = 0
    for length in [len(chunk) for chunk in chunks]:
        cut = (place + length) * len(ours) // len(whole)
        await output.stdout(ours[place * len(ours) // len(whole):cut])
        place += length
    output.end()
    return {"results": await _count(output)}


async def _count(output: Output) -> int:
    count = 0
    while (line := await output.receive()) is not None:
        count += isinstance(decode_worker_line(line), TurnDone)
    return count


async def _garbled(case: Case) -> dict[str, Any]:
    case.knows("between_markers", "then")
    said = {"a valid pair": _OK, "two valid pairs": [("send", "part"), *_OK], "nothing": [("exit", 0)]}
    then = case.given.get("then") or "a valid pair"
    if then not in said:
        raise Unmapped(f"then: {then}")
    ends = await _one_run([[("raw", case.given["between_markers"] + "\n"), *said[then]]])
    return {"results": len(ends["replies"]), "run_fails": not ends["end"].ok}


async def _too_much(case: Case) -> dict[str, Any]:
    """What a program says beside its results goes to its standard error; results have a pipe of their own."""
    case.knows("stdout_bytes", "stderr_bytes", "limit")
    limit, left = case.need("limit"), case.given.get("stdout_bytes") or case.need("stderr_bytes")
    output = Output(limit, lambda: None)
    kept = 0
    while left:
        piece = min(left, _PIECE_BYTES)
        output.stderr(b"x" * piece)
        kept += 0 if output.errors_cut else piece
        left -= piece
    await output.stdout(encode_line(TurnDone(run_id="r", ok=True)))
    output.end()
    return {
        "kept_bytes": kept, "truncated_flag": output.errors_cut,
        "results_after_limit_still_parsed": await _count(output) == 1,
    }


# --- how it ends --------------------------------------------------------------------------------------------------


async def _one_run(script: Script, text: str = "hello", **facts: Any) -> dict[str, Any]:
    async with house(script, **facts) as made:
        await made.register(chat_of("fam@g.us"), "fam", requires_trigger=False)
        await made.hears(MessageReceived(
            chat=chat_of("fam@g.us"), platform_id="1", sender="x", sender_name="X", text=text, sent_ms=1,
        ))
        end = await made.run_next()
        return {
            "end": end, "replies": made.replies(), "session": made.session("fam"),
            "specs": list(made.backend.started), "waits": bool(made.queue.desk.dispatch.lanes["fam"].items),
        }


async def _ended(case: Case) -> dict[str, Any]:
    case.knows("output_seen", "exit_code")
    code = case.need("exit_code")
    said: list[tuple[str, Any]] = [("session", "a session")]
    if case.given.get("output_seen"):
        said += [("send", "part")] if code else _OK
    elif not code:
        # An end in peace, without a word, is a turn's end here as well.
        said.append(("done", {}))
    ends = await _one_run([[*said, ("exit", code)]])
    return {
        "status": "success" if ends["end"].ok else "error",
        # A session's name is the agent's own; the row's is the one that its container gave.
        "session_id": Checked(ends["session"], lambda kept, _: kept is not None),
        "session_kept": ends["session"] is not None,
    }


async def _last_words(case: Case) -> dict[str, Any]:
    case.knows("exit_code", "stderr")
    words = case.given["stderr"]
    ends = await _one_run([[("stderr", words), ("exit", case.need("exit_code"))]])
    error = ends["end"].error
    tail = 0
    while tail < min(len(error), len(words)) and error.endswith(words[-tail - 1:]):
        tail += 1
    return {"status": "success" if ends["end"].ok else "error", "error_ends_with_last_chars": tail}


async def _logged(case: Case) -> dict[str, Any]:
    case.knows("exit_code", "log_level")
    name = str(case.given["log_level"]).upper()
    # What is finer than our finest is that.
    level = logging.getLevelNamesMapping().get("DEBUG" if name == "TRACE" else name)
    if level is None:
        raise Unmapped(f"log_level: {name}")
    secret = "the-words-of-the-user"
    code = case.need("exit_code")
    with _records(level) as records:
        await _one_run([[("stderr", "boom\n"), *([] if code else _OK), ("exit", code)]], secret)
    written = [json.dumps(record.__dict__, default=str) for record in records]
    fields = {_LOGGED[name] for record in records for name in record.__dict__ if name in _LOGGED}
    return {
        "contains": Checked(fields, lambda found, wanted: set(wanted) <= found), "absent": without(fields),
        "contains_prompt_text": any(secret in line for line in written),
    }


#: Our fields of log records → the sections of the original's log.
_LOGGED = {"stderr": "Stderr", "mounts": "Mounts", "prompt_chars": "Input Summary", "code": "Exit Code",
           "took_ms": "Duration", "group": "Group"}


@contextmanager
def _records(level: int) -> Iterator[list[logging.LogRecord]]:
    found: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record)

    logger, handler = logging.getLogger("microclaw.sandbox"), Keep()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


async def _no_engine(case: Case) -> dict[str, Any]:
    case.knows("runtime_binary")
    if case.given["runtime_binary"] not in ("missing", "present"):
        raise Unmapped(f"runtime_binary: {case.given['runtime_binary']}")
    missing = "no engine here: install one" if case.given["runtime_binary"] == "missing" else ""
    ends = await _one_run([_OK], backend_error=missing)
    error = ends["end"].error
    return {
        # What was asked for waits for an engine.
        "status": "success" if ends["end"].ok else "error", "host_alive": ends["waits"] == bool(missing),
        # The original's words for a sandbox that can't be started.
        "error_contains": Phrases({"spawn error": "no engine here" in error and not ends["end"].retryable}),
    }


async def _stopped(case: Case) -> dict[str, Any]:
    """Every service takes both signals the same way."""
    case.knows("SIGTERM_while", "SIGINT_while")
    (said,) = case.given.values()
    found = re.fullmatch(r"(nothing|no|one|two|three)(?: containers?)?(?: runs?| are running| is running)?", said)
    if found is None:
        raise Unmapped(f"SIGTERM_while: {said}")
    count = ("no", "one", "two", "three").index(found[1].replace("nothing", "no"))
    async with house([[("sleep", 5), *_OK], _OK]) as made:
        for number in range(count):
            await made.register(chat_of(f"{number}@g.us"), f"fam{number}", requires_trigger=False)
            await made.hears(MessageReceived(
                chat=chat_of(f"{number}@g.us"), platform_id="1", sender="x", sender_name="X", text="hi", sent_ms=1,
            ))
        took_s = await made.stop_sandbox(*await made.begin_all())
        is_under_way = len(made.grants) == count and not made.ends
        await made.run_all()
        return {
            "host_exits_s_max": at_most(took_s), "container_left_running": is_under_way,
            "reply_still_delivered_after_restart": [reply.text for reply in made.replies()] == ["ok"] * count,
        }


# --- what it is given ---------------------------------------------------------------------------------------------


@contextmanager
def _home() -> Iterator[Home]:
    with tempfile.TemporaryDirectory(prefix="mc-c-") as folder:
        home = home_from({"MICROCLAW_HOME": folder})
        home.create()
        yield home


def _mounts(case: Case) -> dict[str, Any]:
    case.knows("is_main", "global_memory_dir")
    with _home() as home:
        if case.given.get("global_memory_dir") != "missing":
            (home.groups / "global").mkdir()
        parts = project_parts(home)
        mounts = group_mounts(home, "fam", is_main=case.need("is_main"), project=parts)
    writable = {mount.target for mount in mounts if mount.writable}
    readonly = {mount.target for mount in mounts if not mount.writable}
    return {
        "writable_includes": Checked(writable, lambda got, wanted: got >= _ours(wanted)),
        "writable": Checked(writable, lambda got, wanted: got == _ours(wanted)),
        "readonly": Checked(readonly, lambda got, wanted: got == _ours(wanted)),
        "readonly_includes": Checked(readonly, lambda got, wanted: all(
            any(target == path or target.startswith(f"{path}/") for target in got) for path in _ours(wanted)
        )),
        "absent": without([mount.target for mount in mounts]),
        "ok": bool(mounts),
        "env_file_hidden": bool(parts) and not any(
            mount.source.name.startswith(".env") or (mount.source / ".env").exists() or mount.source == parts[0].parent
            for mount in mounts
        ),
    }


def _ours(paths: list[str]) -> set[str]:
    return {ours for path in paths if (ours := _PATHS.get(path, path)) is not None}


async def _secrets(case: Case) -> dict[str, Any]:
    """Our own environment has them; a worker's has not, nor its command line."""
    case.knows("env_file")
    secrets = secrets_in(case.given["env_file"] or "")
    with mock.patch.dict(os.environ, secrets):
        ends = await _one_run([_OK])
    (spec,) = ends["specs"]
    seen = {*spec.env, *spec.env.values(), *spec.argv}
    return {
        "names": list(secrets),
        "raw_values_visible_in_container": bool(seen & {*secrets, *secrets.values()}),
    }


def _name(case: Case) -> dict[str, Any]:
    """Ours has no time in it but something random, and small letters; the engine's prefix comes before it."""
    case.knows("folder")
    worker_id = worker_id_for(case.given["folder"], b"\x12\x34\x56\x78")
    return {"name_matches": Checked(worker_id, lambda name, pattern: re.fullmatch(
        pattern.replace("<prefix>-", "").replace("[0-9]+", "[0-9a-f]+").strip("^$"), name, re.IGNORECASE
    ) is not None)}


