"""A message's whole way. What the row's container does, the scripted worker does in our lines; "the cursor" is whether
the queue still holds the messages: rolled back = they are the group's again, kept or advanced = they are done.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.contract.areas.house_words import chat_of
from tests.contract.house import House, Script, house
from tests.contract.rows import Case, Checked, Phrases, Unmapped

from microclaw.core.dispatch import RETRY_MS
from microclaw.core.groups import MAIN_FOLDER
from microclaw.core.kinds import MessageReceived
from microclaw.core.prompt import escape
from microclaw.core.text import outbound
from microclaw.core.trigger import trigger_of, triggers

_NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5}
_OK: tuple[tuple[str, Any], ...] = (("done", {"text": "ok"}),)
#: A run that takes so long is shown as such.
_ANNOUNCED_S = 0.9
_SLOW: tuple[tuple[str, Any], ...] = (("sleep", _ANNOUNCED_S), *_OK)
#: What a row may say of the group in which it plays.
_GROUP_FACTS = ("requires_trigger", "is_main", "assistant_name")


async def answer(case: Case) -> dict[str, Any]:
    given = case.given
    for key, play in (
        ("stored", _trigger), ("arrive", _follow_ups), ("host_killed_after_store_before_poll", _killed_after_store),
        ("host_killed_before_store", _killed_before_store),
        ("follow_up_written_but_not_read_by_container", _killed_with_follow_up),
        ("host_killed_while_agent_runs", _killed_in_run), ("offline_messages", _offline),
        ("container_error", _session_fails), ("retries_used_up", _used_up),
    ):
        if key in given:
            return await play(case)
    return await _plain(case)


class _Stage:
    """A house and the group in which a row plays."""

    def __init__(self, made: House, case: Case, *, requires_trigger: bool = False) -> None:
        self.made = made
        self._is_main = bool(case.given.get("is_main", False))
        self._requires_trigger = case.given.get("requires_trigger", requires_trigger)
        self.folder, self.chat = (MAIN_FOLDER, "console:main") if self._is_main else ("fam", chat_of("fam@g.us"))
        self.name = case.given.get("assistant_name", "Andy")

    async def register(self) -> None:
        if self._is_main:
            self.made.router.registry.ensure_main(self.chat)
        else:
            await self.made.register(self.chat, self.folder, requires_trigger=self._requires_trigger)

    async def says(self, number: int, text: str = "@Andy hello", *, dies: bool = False) -> None:
        await self.made.hears(MessageReceived(
            chat=self.chat, platform_id=f"m{number}", sender="ann", sender_name="Ann", text=text,
            sent_ms=1_700_000_000_000 + number, is_group=not self._is_main,
        ), dies=dies)

    @property
    def prompts(self) -> list[dict[str, Any]]:
        return self.made.prompts(self.folder)

    @property
    def session(self) -> str | None:
        return self.made.session(self.folder)

    @property
    def lane(self) -> Any:
        return self.made.queue.desk.dispatch.lanes[self.folder]

    def processed(self, text: str) -> bool:
        """Whether a run that ended well had it."""
        asked = any(text in prompt["prompt"] for prompt in self.prompts)
        return asked and self.made.ends[-1].ok and not self.lane.items


@asynccontextmanager
async def _stage(
    case: Case, script: Script = (_OK,), *, requires_trigger: bool = False
) -> AsyncIterator[_Stage]:
    async with house(script) as made:
        stage = _Stage(made, case, requires_trigger=requires_trigger)
        await stage.register()
        yield stage


# --- one message ------------------------------------------------------------------------------------------------


async def _plain(case: Case) -> dict[str, Any]:
    case.knows("container", "presence_call", "stored_session", *_GROUP_FACTS)
    kept, does = case.given.get("stored_session"), str(case.given.get("container", ""))
    missing = "no sandbox can be had" if _NO_START.fullmatch(does) else ""
    acts = _turn(does) if does and not missing else list(_OK)
    # What ends at once is not announced.
    script: Script = [[("sleep", _ANNOUNCED_S), *acts] if "presence" in case.asked else acts]
    if kept is not None:
        script = [[("session", kept), ("done", {})], *script]
    async with _stage(case, script) as stage:
        made = stage.made
        match case.given.get("presence_call", "ok"):
            case "throws" | "fails" | "rejects":
                made.bus.refuses.add("presence.changed")
            case other if other != "ok":
                raise Unmapped(f"presence_call: {other}")
        if kept is not None:
            await stage.says(0)
            await made.run_next()
        made.backend_error = missing
        await stage.says(1)
        end = await made.run_next()
        said = [outbound(reply.text, stage.name) for reply in made.replies()]
        is_back = bool(stage.lane.items)
        retry_ms = None if stage.lane.retry_ms is None else stage.lane.retry_ms - made.queue.now
        facts = {
            "cursor": Phrases({"rolled back": is_back, "kept": not is_back, "advanced": not is_back}),
            "retry_after_s": None if retry_ms is None else retry_ms / 1000, "retries": int(retry_ms is not None),
            "sent": said, "sent_count": len(said),
            "order": Phrases({"as produced": said == sorted(said, key=_number)}),
            "success": end.ok, "session_saved": (made.home.sessions / stage.folder).is_dir(),
            "stored_session": stage.session, "presence": made.presence(), "error": end.error,
            "agent_still_runs": end.ok and bool(stage.prompts),
        }
        if "next_run_resumes" in case.asked:
            # Even by a new worker.
            await made.pool.end_idle()
            await stage.says(2)
            await made.run_next()
            facts["next_run_resumes"] = facts["session_used"] = stage.prompts[-1]["resumed"]
        return facts


#: There is none.
_NO_START = re.compile(r"(?:can not|cannot|can't) be started|does not start|spawn error|fails to start")
#: What a container may do, one after the other, and what the scripted worker does then.
_ACTS: tuple[tuple[str, str], ...] = (
    (r'(?:sends |results? |gives |sending )?"(?P<value>[^"]*)"', "said"),
    (r"result is an object (?P<value>\{.*?\})", "said"),
    (r"result is an? (?:array|list) (?P<value>\[.*?\])", "said"),
    (r"result is a (?:number|boolean) (?P<value>\w+)", "said"),
    (r"(?:sends|result is|gives) (?:only|nothing but) internal(?: text| words)?", "hush"),
    (r"result (?:null|empty|is (?:null|empty|an empty string))", "nothing"),
    (r"(?P<value>one|two|three|four|five|\d+) results?(?: in one run)?", "many"),
    (r"(?:no result|no output|nothing|no new session id)", "nothing"),
    (r"(?:reports )?(?:status )?error(?: \"[^\"]*\")?", "error"),
    (r"new session id (?P<value>[\w-]+)", "session"),
    (r"later (?P<value>[\w-]+)", "session"),
    (r"(?:exits|dies with)(?: with)?(?: code)? (?P<value>\d+)(?: without output)?", "exit"),
    (r"(?:is killed|crashes|dies|times out)(?: without output)?", "exit"),
)
_BETWEEN = re.compile(r"(?:,| then| and| after| with)*\s*")


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
        elif act == "hush":
            results.append("<internal>hm</internal>")
        elif act == "many":
            results += [f"result {number}" for number in range(1, 1 + (_NUMBERS.get(value) or int(value)))]
        elif act == "session":
            sessions.append(("session", value))
        elif act == "error":
            # Its session is there before it fails.
            sessions = sessions or ([] if results else [("session", "s1")])
            end = ("done", {"ok": False, "error": "boom", "error_code": "crashed"})
        elif act == "exit" and end is None:
            # One that ended well has said its last word before, or none at all: it is over.
            code = int(value) if value else 137
            end = ("done", {"text": results.pop() if results else ""}) if code == 0 else ("exit", code)
        place = match.end()
        place += len(_BETWEEN.match(said, place)[0])  # type: ignore[index]
    if end is None:
        end = ("done", {"text": results.pop() if results else "ok" if sessions else ""})
    return [*sessions, *(("send", text) for text in results), end]


def _number(text: str) -> int:
    found = re.search(r"(\d+)$", text)
    return int(found[1]) if found else 0


# --- what comes, and when -----------------------------------------------------------------------------------------


async def _trigger(case: Case) -> dict[str, Any]:
    case.knows("stored", *_GROUP_FACTS)
    stored = case.given["stored"]
    async with _stage(case, requires_trigger=True) as stage:
        before = 0
        for number, message in enumerate(stored):
            if message.get("trigger", triggers(message["text"], trigger_of("", stage.name))):
                before = len(stage.prompts) + len(stage.made.grants)
            await stage.says(number, message["text"])
        await stage.made.run_all()
        return {"runs_before": before, "runs_after": len(stage.prompts), "runs": len(stage.prompts)} | _contained(
            stage.prompts[-1:], [message["text"] for message in stored]
        )


def _contained(prompts: list[dict[str, Any]], texts: list[str]) -> dict[str, Any]:
    whole = "".join(prompt["prompt"] for prompt in prompts)
    are_all = all(escape(text) in whole for text in texts)
    return {"prompt_contains_both": are_all, "prompt_contains_all": are_all}


async def _follow_ups(case: Case) -> dict[str, Any]:
    """While a run is under way in a live worker."""
    case.knows("live_container", "arrive", "same_poll", *_GROUP_FACTS)
    arrive = case.given["arrive"]
    async with _stage(case, [_SLOW, _OK]) as stage:
        made = stage.made
        await stage.says(0, "@Andy first")
        running = await made.begin_next() if case.given.get("live_container") else None
        before = len(made.backend.started)
        for number, text in enumerate(arrive, start=1):
            await stage.says(number, text)
        if running is not None:
            await running
        await made.run_all()
        later = stage.prompts[1:] if running is not None else stage.prompts
        return {
            "new_containers": len(made.backend.started) - before,
            "follow_up_files": len(later), "piped": bool(later) and running is not None,
            "cursor": Phrases({
                f"at {arrive[-1]}": not stage.lane.items and bool(later) and arrive[-1] in later[-1]["prompt"],
            }),
        } | _contained(later, arrive)


# --- kills --------------------------------------------------------------------------------------------------------


async def _killed_in_run(case: Case) -> dict[str, Any]:
    case.knows("host_killed_while_agent_runs", "sent", "stored_session", *_GROUP_FACTS)
    parts = case.given.get("sent", [])
    session = [("session", case.given["stored_session"])] if case.given.get("stored_session") else []
    begun = [*session, *(("send", text) for text in parts), ("sleep", 5), *_OK]
    async with _stage(case, [begun, _OK]) as stage:
        made = stage.made
        await stage.says(1, "@Andy remember me")
        running = await made.begin_next()
        await made.kill(running)
        await made.run_all()
        sent = [reply.text for reply in made.replies()]
        twice = any(sent.count(text) > 1 for text in parts)
        return {
            "message_processed": stage.processed("remember me"), "sent": sent, "sent_twice": twice,
            "sent_again": twice, "stored_session": stage.session,
        }


async def _killed_after_store(case: Case) -> dict[str, Any]:
    case.knows("host_killed_after_store_before_poll", *_GROUP_FACTS)
    async with _stage(case) as stage:
        await stage.says(1, "@Andy remember me", dies=True)
        await stage.made.run_all()
        return {"message_processed": stage.processed("remember me")}


async def _killed_before_store(case: Case) -> dict[str, Any]:
    """The broker has it, and gives it again."""
    case.knows("host_killed_before_store", *_GROUP_FACTS)
    async with _stage(case) as stage:
        await stage.made.kill()
        await stage.says(1, "@Andy remember me")
        await stage.made.run_all()
        return {"message_processed": stage.processed("remember me")}


async def _killed_with_follow_up(case: Case) -> dict[str, Any]:
    case.knows("follow_up_written_but_not_read_by_container", "host_killed", *_GROUP_FACTS)
    async with _stage(case, [[("sleep", 5), *_OK], _OK]) as stage:
        await stage.says(1, "@Andy first")
        running = await stage.made.begin_next()
        await stage.says(2, "@Andy remember me")
        await stage.made.kill(running)
        await stage.made.run_all()
        return {"message_processed": stage.processed("remember me")}


async def _offline(case: Case) -> dict[str, Any]:
    """They wait in the journal, and the router gets them when it starts."""
    case.knows("offline_messages", *_GROUP_FACTS)
    async with _stage(case, requires_trigger=True) as stage:
        await stage.made.kill()
        for number, message in enumerate(case.given["offline_messages"]):
            await stage.says(number, message["text"])
        await stage.made.run_all()
        texts = [message["text"] for message in case.given["offline_messages"]]
        return {"agent_started": bool(stage.prompts), "runs": len(stage.prompts)} | _contained(stage.prompts, texts)


# --- failures -----------------------------------------------------------------------------------------------------

#: The words by which the original knows that a session can't be resumed. Our worker says so by a code.
_NO_SESSION = re.compile(r"no conversation found|ENOENT.*\.jsonl|session.*not found", re.IGNORECASE)


async def _session_fails(case: Case) -> dict[str, Any]:
    """The worker finds a session that can't be resumed, or fails otherwise, and says so."""
    case.knows("stored_session", "container_error", *_GROUP_FACTS)
    error, kept = str(case.given["container_error"]), case.need("stored_session")
    # Every turn after the first meets what is left of the session.
    fails: tuple[str, Any] = ("stale", error)
    if not _NO_SESSION.search(error):
        fails = ("done", {"ok": False, "error": error, "error_code": "crashed"})
    async with _stage(case, [[("session", kept), *_OK], [fails]]) as stage:
        made = stage.made
        await stage.says(1)
        await made.run_next()
        assert stage.session == kept
        await stage.says(2)
        end = await made.run_next()
        assert not end.ok
        left = stage.session
        made.pass_time(RETRY_MS[0])
        retry = await made.run_next()
        return {
            "stored_session": left, "session_kept": left == kept,
            "next_retry_is_fresh": retry.ok and made.replies()[-1].text == "fresh",
        }


async def _used_up(case: Case) -> dict[str, Any]:
    case.knows("retries_used_up", *_GROUP_FACTS)
    fails: list[tuple[str, Any]] = [("done", {"ok": False, "error": "boom", "error_code": "model_down"})]
    async with _stage(case, [fails] * (len(RETRY_MS) + 1) + [_OK]) as stage:
        made = stage.made
        await stage.says(1, "@Andy remember me")
        await made.run_next()
        for pause_ms in RETRY_MS[: None if case.given["retries_used_up"] else -1]:
            made.pass_time(pause_ms)
            await made.run_next()
        told = [notice.chat for notice in made.notices()]
        await stage.says(2, "@Andy and me")
        await made.run_next()
        last = stage.prompts[-1]["prompt"]
        return {
            "user_is_told": Checked(told, lambda chats, wanted: (chats == [stage.chat]) == wanted),
            "told_once": told == [stage.chat],
            "messages_kept_for_next_message": "remember me" in last and "and me" in last,
        }
