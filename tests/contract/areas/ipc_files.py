"""The original passes requests and follow-ups as files; here they are lines on the worker's pipes. A file that cannot
be read is a line that makes no sense; putting it aside is noting it in the log; removing it is answering the call.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from typing import Any

import msgspec
from tests.contract.areas.house_words import chat_of
from tests.contract.areas.wire import refused_at_first
from tests.contract.house import House, Script, house
from tests.contract.rows import Case, Checked, Phrases, Unmapped

from microclaw.core.kinds import MessageReceived
from microclaw.core.worker import Turn, decode_host_line, encode_line

_OK: list[tuple[str, Any]] = [("done", {"text": "ok"})]
_JID = "fam@g.us"
_ROW_MESSAGE = '{"type": "message", "chatJid": "fam@g.us", "text": "from a file"}'
#: Words for a content, and the content.
_CONTENTS: dict[str, Any] = {
    "(a )?(valid message|message to its own chat)": {"type": "message", "chatJid": _JID, "text": "hello"},
    "(a )?message to (a foreign|another|an unregistered) chat": {
        "type": "message", "chatJid": "other@g.us", "text": "psst",
    },
    "(a )?message (without|with no|with an empty) text": {"type": "message", "chatJid": _JID, "text": ""},
    "(a )?message (without|with no) (a )?(chat|chatJid|address)": {"type": "message", "text": "hello"},
    "(a )?((message|request) of )?(an )?unknown type": {"type": "sing", "chatJid": _JID, "text": "hello"},
    "(bad|broken|invalid|truncated|malformed|damaged|no|not) json( at all)?": _ROW_MESSAGE[:30],
}


def answer(case: Case) -> Any:
    if "files" in case.given:
        return _follow_ups(case)
    if "follow_up_text" in case.given:
        return _framing(case)
    if "send_fails" in case.given:
        return _send_fails(case)
    if "file" in case.given:
        return _scanned(case)
    raise Unmapped("no such scene")


def _heard(text: str, number: int = 1) -> MessageReceived:
    return MessageReceived(
        chat=chat_of("fam@g.us"), platform_id=f"m{number}", sender="x", sender_name="X", text=text, sent_ms=number,
    )


async def _scanned(case: Case) -> dict[str, Any]:
    case.knows("file", "content")
    name, content = case.given["file"].rpartition("/")[2], case.need("content")
    if not name.endswith(".json"):
        return await _not_a_request(name)
    if isinstance(content, str):
        content = _content(content)
    if isinstance(content, Mapping) and "type" in content:
        return await _request(content)
    return await _damaged(name, content if isinstance(content, str) else json.dumps(content))


def _content(said: str) -> Any:
    """What the row means: words about a content, or the content itself, decoded where it can be."""
    for words, content in _CONTENTS.items():
        if re.fullmatch(words, said, re.IGNORECASE):
            return content
    try:
        return json.loads(said)
    except ValueError:
        if re.fullmatch(r"\w+( \w+)+", said):
            raise Unmapped(f"content: {said}") from None  # words that nobody knows
        return said


async def _run(made: House) -> None:
    await made.register(chat_of("fam@g.us"), "fam", requires_trigger=False)
    await made.hears(_heard("hello"))
    await made.run_all()


async def _not_a_request(name: str) -> dict[str, Any]:
    """What an agent puts into its folder is its own: nobody takes it for a request."""
    async with house([[("file", [name, _ROW_MESSAGE]), *_OK]]) as made:
        await _run(made)
        return {
            "handled": [reply.text for reply in made.replies()] != ["ok"],
            "left_in_place": (made.home.groups / "fam" / name).exists(),
        }


async def _request(content: Mapping[str, Any]) -> dict[str, Any]:
    """A request that can be read is a call of the tool."""
    tool = "send_message" if content["type"] == "message" else str(content["type"])
    args = {"text": content.get("text"), "chat": chat_of(str(content.get("chatJid", "")))}
    async with house() as made:
        await made.register(chat_of("other@g.us"), "other")
        reply = await made.call("fam", chat_of(_JID), False, tool, args)
        sent = [each.text for each in made.replies()]
        return {
            "handled": reply.ok and sent == [content.get("text")], "sent": sent, "removed": bool(reply.text),
            "warned": any(audit.outcome == "deny" for audit in made.audits()),
        }


async def _damaged(name: str, content: str) -> dict[str, Any]:
    script: Script = [[("raw", content + "\n"), ("send", "another"), *_OK]]
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger("microclaw.sandbox")
    logger.addHandler(handler)
    try:
        async with house(script) as made:
            await _run(made)
            said = [reply.text for reply in made.replies()]
    finally:
        logger.removeHandler(handler)
    noted = [record for record in records if record.getMessage() == "a line that can't be read"]
    is_noted = len(noted) == 1 and getattr(noted[0], "group", "") == "fam"
    return {
        "moved_to": Checked(is_noted, lambda found, path: found and path == f"errors/<folder>-{name}"),
        "others_still_handled": said == ["another", "ok"], "handled": False, "removed": said[:1] == ["another"],
    }


async def _follow_ups(case: Case) -> dict[str, Any]:
    """Their names begin with the time at which they were written: they arrive in that order."""
    case.knows("files")
    files = sorted((name for name in case.given["files"] if name.endswith(".json")), key=_written)
    async with house([[("sleep", 0.3), *_OK], _OK]) as made:
        await made.register(chat_of("fam@g.us"), "fam", requires_trigger=False)
        await made.hears(_heard("first"))
        running = await made.begin_next()
        for number, name in enumerate(files, start=2):
            await made.hears(_heard(name, number))
        await running
        await made.run_all()
        prompts = [prompt["prompt"] for prompt in made.prompts("fam")[1:]]
        order = re.findall(r">([^<>]+)</message>", "".join(prompts))
        return {
            "order": order,
            "each_removed_after_read": len(order) == len(set(order)) and not made.waiting("fam"),
        }


def _written(name: str) -> tuple[int, str]:
    moment = name.partition("-")[0]
    return (int(moment) if moment.isdigit() else 0, name)


def _framing(case: Case) -> dict[str, Any]:
    """A turn is a line: whole, or not there."""
    case.knows("follow_up_text")
    raw = encode_line(Turn(run_id="r", prompt=case.given["follow_up_text"], now_ms=0))
    line = decode_host_line(raw)
    assert isinstance(line, Turn)
    try:
        decode_host_line(raw[: len(raw) // 2])
        whole_or_nothing = False
    except msgspec.DecodeError:
        whole_or_nothing = raw.count(b"\n") == 1 and raw.endswith(b"\n")
    return {
        "file_content": {"type": "message", "text": line.prompt},
        "written": Phrases({"to a .tmp name first, then renamed": whole_or_nothing}),
    }


async def _send_fails(case: Case) -> dict[str, Any]:
    case.knows("send_fails")
    seen = await refused_at_first()
    # What was kept after the first try came with another.
    is_sent = seen.sent == ["one"]
    return {"retried": seen.queued > 0 and is_sent, "message_not_lost": is_sent}
