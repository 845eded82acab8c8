"""A message's whole way. What the row's container does, the scripted worker does in our lines; "the cursor" is whether
the queue still holds the messages: rolled back = they are the group's again, kept or advanced = they are done.
"""

from __future__ import annotations

import re
from typing import Any

from tests.contract.areas.house_words import chat_of
from tests.contract.house import House, Script, house
from tests.contract.rows import Case, Checked, Phrases, Unmapped

from microclaw.core.dispatch import RETRY_MS
from microclaw.core.kinds import MessageReceived
from microclaw.core.prompt import escape
from microclaw.core.text import outbound

_GROUP, _JID = "fam", "fam@g.us"
_NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5}
_OK: tuple[tuple[str, Any], ...] = (("done", {"text": "ok"}),)
#: A run that takes so long is shown as such.
_ANNOUNCED_S = 0.9
_SLOW: tuple[tuple[str, Any], ...] = (("sleep", _ANNOUNCED_S), *_OK)


async def answer(case: Case) -> dict[str, Any]:
    given = case.given
    if "stored" in given:
        return await _trigger(case)
    if "arrive" in given:
        return await _follow_ups(case)
    if "host_killed_after_store_before_poll" in given:
        return await _killed_after_store(case)
    if "follow_up_written_but_not_read_by_container" in given:
        return await _killed_with_follow_up(case)
    if "host_killed_while_agent_runs" in given:
        return await _killed_in_run(case)
    if "offline_messages" in given:
        return await _offline(case)
    if "stored_session" in given:
        return await _stale(case)
    if "retries_used_up" in given:
        return await _used_up(case)
    return await _plain(case)


# --- one message ------------------------------------------------------------------------------------------------


async def _plain(case: Case) -> dict[str, Any]:
    case.knows("container", "presence_call")
    acts = _turn(case.given["container"]) if "container" in case.given else list(_OK)
    # What ends at once is not announced.
    script: Script = [[("sleep", _ANNOUNCED_S), *acts] if "presence" in case.asked else acts]
    async with house(script) as made:
        match case.given.get("presence_call", "ok"):
            case "throws" | "fails":
                made.bus.refuses.add("presence.changed")
            case other if other != "ok":
                raise Unmapped(f"presence_call: {other}")
        await _group(made)
        await _says(made, 1)
        end = await made.run_next()
        said = [outbound(reply.text, "Andy") for reply in made.replies()]
        lane = made.queue.desk.dispatch.lanes[_GROUP]
        is_back = bool(lane.items)
        retry_ms = None if lane.retry_ms is None else lane.retry_ms - made.queue.now
        facts = {
            "cursor": Phrases({"rolled back": is_back, "kept": not is_back, "advanced": not is_back}),
            "retry_after_s": None if retry_ms is None else retry_ms / 1000, "retries": int(lane.retry_ms is not None),
            "sent": said, "sent_count": len(said),
            "order": Phrases({"as produced": said == sorted(said, key=_number)}),
            "success": end.ok, "session_saved": (made.home.sessions / _GROUP).is_dir(),
            "stored_session": made.session(_GROUP), "presence": made.presence(),
            "agent_still_runs": end.ok and bool(made.prompts(_GROUP)),
        }
        if "next_run_resumes" in case.asked:
            # Even by a new worker.
            await made.pool.end_idle()
            await _says(made, 2)
            await made.run_next()
            facts["next_run_resumes"] = made.prompts(_GROUP)[-1]["resumed"]
        return facts


#: What a container may do, one after the other, and what the scripted worker does then.
_ACTS: tuple[tuple[str, str], ...] = (
    (r'(?:sends|results?|gives) "(?P<value>[^"]*)"', "said"),
    (r"result is an object (?P<value>\{.*?\})", "said"),
    (r"result is an array (?P<value>\[.*?\])", "said"),
    (r"result is a (?:number|boolean) (?P<value>\w+)", "said"),
    (r"result (?:null|empty|is (?:null|empty|an empty string))", "nothing"),
    (r"(?P<value>one|two|three|four|five|\d+) results(?: in one run)?", "many"),
    (r"(?:reports )?(?:status )?error(?: \"[^\"]*\")?", "error"),
    (r"new session id (?P<value>[\w-]+)", "session"),
    (r"later (?P<value>[\w-]+)", "session"),
    (r"(?:exits|dies with)(?: with)?(?: code)? (?P<value>\d+)(?: without output)?", "exit"),
    (r"is killed|times out(?: without output)?", "exit"),
)
_BETWEEN = re.compile(r"(?:,| then| and)*\s*")


def _act(said: str, place: int) -> tuple[str, re.Match[str]]:
    for pattern, act in _ACTS:
        if match := re.compile(pattern).match(said, place):
            return act, match
    raise Unmapped(f"container: {said}")


def _turn(said: str) -> list[tuple[str, Any]]:
    """The acts of a worker that does this: the last result ends the turn, unless the container ends it otherwise."""
    results: list[str] = []
    sessions: list[tuple[str, Any]] = []
    end: tuple[str, Any] | None = None
    place = 0
    while place < len(said):
        act, match = _act(said, place)
        value = match.groupdict().get("value") or ""
        if act == "said":
            results.append(value)
        elif act == "many":
            results += [f"result {number}" for number in range(1, 1 + (_NUMBERS.get(value) or int(value)))]
        elif act == "session":
            sessions.append(("session", value))
        elif act == "error":
            # Its session is there before it fails.
            sessions = sessions or ([] if results else [("session", "s1")])
            end = ("done", {"ok": False, "error": "boom", "error_code": "crashed"})
        elif act == "exit" and end is None:
            # One that ended well has said its last word before.
            code = int(value) if value else 137
            end = ("done", {"text": results.pop()}) if code == 0 and results else ("exit", code)
        place = match.end()
        place += len(_BETWEEN.match(said, place)[0])  # type: ignore[index]
    if end is None:
        end = ("done", {"text": results.pop() if results else "ok" if sessions else ""})
    return [*sessions, *(("send", text) for text in results), end]


def _number(text: str) -> int:
    found = re.search(r"(\d+)$", text)
    return int(found[1]) if found else 0


# --- what comes, and when -----------------------------------------------------------------------------------------


async def _group(made: House, *, requires_trigger: bool = False) -> None:
    await made.register(chat_of(_JID), _GROUP, requires_trigger=requires_trigger)


def _message(number: int, text: str) -> MessageReceived:
    return MessageReceived(
        chat=chat_of(_JID), platform_id=f"m{number}", sender="ann", sender_name="Ann", text=text,
        sent_ms=1_700_000_000_000 + number, is_group=True,
    )


async def _says(made: House, number: int, text: str = "hello", *, dies: bool = False) -> None:
    await made.hears(_message(number, text), dies=dies)


async def _trigger(case: Case) -> dict[str, Any]:
    case.knows("stored", "requires_trigger")
    stored = case.given["stored"]
    async with house() as made:
        await _group(made, requires_trigger=case.need("requires_trigger"))
        before = 0
        for number, message in enumerate(stored):
            if message["trigger"]:
                before = len(made.prompts(_GROUP)) + len(made.grants)
            await _says(made, number, message["text"])
        await made.run_all()
        prompts = made.prompts(_GROUP)
        whole = prompts[-1]["prompt"] if prompts else ""
        return {
            "runs_before": before, "runs_after": len(prompts),
            "prompt_contains_both": all(escape(message["text"]) in whole for message in stored),
        }


async def _follow_ups(case: Case) -> dict[str, Any]:
    """While a run is under way in a live worker."""
    case.knows("live_container", "arrive", "same_poll", "requires_trigger")
    needs_trigger = case.given.get("requires_trigger", False)
    async with house([_SLOW, _OK]) as made:
        await _group(made, requires_trigger=needs_trigger)
        await _says(made, 0, "@Andy first")
        running = await made.begin_next() if case.given.get("live_container") else None
        before = len(made.backend.started)
        for number, text in enumerate(case.given["arrive"], start=1):
            await _says(made, number, text)
        if running is not None:
            await running
        await made.run_all()
        later = made.prompts(_GROUP)[1:] if running is not None else made.prompts(_GROUP)
        lane = made.queue.desk.dispatch.lanes[_GROUP]
        last = case.given["arrive"][-1]
        return {
            "new_containers": len(made.backend.started) - before,
            "follow_up_files": len(later), "piped": bool(later) and running is not None,
            "cursor": Phrases({f"at {last}": not lane.items and bool(later) and last in later[-1]["prompt"]}),
        }


# --- kills --------------------------------------------------------------------------------------------------------


async def _killed_in_run(case: Case) -> dict[str, Any]:
    case.knows("host_killed_while_agent_runs", "sent")
    async with house([[*(("send", text) for text in case.given.get("sent", [])), ("sleep", 5), *_OK], _OK]) as made:
        await _group(made)
        await _says(made, 1, "remember me")
        running = await made.begin_next()
        await made.kill(running)
        await made.run_all()
        sent = [reply.text for reply in made.replies()]
        twice = any(sent.count(text) > 1 for text in case.given.get("sent", []))
        return _processed(made, "remember me") | {"sent": sent, "sent_twice": twice, "sent_again": twice}


async def _killed_after_store(case: Case) -> dict[str, Any]:
    case.knows("host_killed_after_store_before_poll")
    async with house() as made:
        await _group(made)
        await _says(made, 1, "remember me", dies=True)
        await made.run_all()
        return _processed(made, "remember me")


async def _killed_with_follow_up(case: Case) -> dict[str, Any]:
    case.knows("follow_up_written_but_not_read_by_container", "host_killed")
    async with house([[("sleep", 5), *_OK], _OK]) as made:
        await _group(made)
        await _says(made, 1, "first")
        running = await made.begin_next()
        await _says(made, 2, "remember me")
        await made.kill(running)
        await made.run_all()
        return _processed(made, "remember me")


def _processed(made: House, text: str) -> dict[str, Any]:
    """Whether a run that ended well had it."""
    asked = any(text in prompt["prompt"] for prompt in made.prompts(_GROUP))
    return {"message_processed": asked and made.ends[-1].ok and not made.queue.desk.dispatch.lanes[_GROUP].items}


async def _offline(case: Case) -> dict[str, Any]:
    """They wait in the journal, and the router gets them when it starts."""
    case.knows("offline_messages", "requires_trigger")
    async with house() as made:
        await _group(made, requires_trigger=case.need("requires_trigger"))
        await made.kill()
        for number, message in enumerate(case.given["offline_messages"]):
            await _says(made, number, message["text"])
        await made.run_all()
        return {"agent_started": bool(made.prompts(_GROUP))}


# --- failures -----------------------------------------------------------------------------------------------------


async def _stale(case: Case) -> dict[str, Any]:
    """The worker finds a session that can't be resumed, and says so."""
    case.knows("stored_session", "container_error")
    if "container_error" not in case.given:
        return await _resumed(case)
    # Every turn after the first meets what is left of the session.
    stale = [("stale", case.given.get("container_error", "stale"))]
    async with house([[("session", case.given["stored_session"]), *_OK], stale]) as made:
        await _group(made)
        await _says(made, 1)
        await made.run_next()
        assert made.session(_GROUP) == case.given["stored_session"]
        await _says(made, 2)
        end = await made.run_next()
        assert not end.ok
        left = made.session(_GROUP)
        made.pass_time(RETRY_MS[0])
        retry = await made.run_next()
        return {
            "stored_session": left,
            "next_retry_is_fresh": retry.ok and made.replies()[-1].text == "fresh",
        }


async def _resumed(case: Case) -> dict[str, Any]:
    async with house([[("session", case.given["stored_session"]), *_OK], _OK]) as made:
        await _group(made)
        for number in (1, 2):
            await _says(made, number)
            await made.run_next()
        resumed = made.prompts(_GROUP)[-1]["resumed"]
        return {"stored_session": made.session(_GROUP), "next_run_resumes": resumed, "session_used": resumed}


async def _used_up(case: Case) -> dict[str, Any]:
    case.knows("retries_used_up")
    fails: list[tuple[str, Any]] = [("done", {"ok": False, "error": "boom", "error_code": "model_down"})]
    async with house([fails] * (len(RETRY_MS) + 1) + [_OK]) as made:
        await _group(made)
        await _says(made, 1, "remember me")
        await made.run_next()
        for pause_ms in RETRY_MS[: None if case.given["retries_used_up"] else -1]:
            made.pass_time(pause_ms)
            await made.run_next()
        told = [notice.chat for notice in made.notices()]
        await _says(made, 2, "and me")
        await made.run_next()
        last = made.prompts(_GROUP)[-1]["prompt"]
        return {
            "user_is_told": Checked(told, lambda chats, wanted: (chats == [chat_of(_JID)]) == wanted),
            "messages_kept_for_next_message": "remember me" in last and "and me" in last,
        }
