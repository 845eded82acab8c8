"""A model server without a model: both dialects (Anthropic Messages, OpenAI Chat Completions) on a real socket.

It answers by a script: a list of `Reply`s given one after the other, or a function from what was `Asked` to a `Reply`.
`rules` makes such a function from data: it looks only at the request, so that many conversations may run at once. When
a script is used up the answer is `echo: ` and the last text of the user.

    python -m tests.fakes.llm_server --port 4011 --script script.json

The script file holds a list of replies (`[{"text": "hi"}, {"status": 429, "retry_after": "1"}]`) or rules
(`{"rules": [{"when": "weather", "steps": [{"calls": [["bash", {"command": "date"}]]}, {"text": "fine"}]}]}`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

#: Longest request body taken, in bytes.
BODY_BYTES_MAX = 32 << 20


@dataclass
class Reply:
    """One answer, or one way not to answer."""

    text: str = ""
    #: Tool calls: name and arguments.
    calls: Sequence[tuple[str, Any]] = ()
    #: 200, or the status of an error with `text` as its message.
    status: int = 200
    #: The `Retry-After` header.
    retry_after: str = ""
    #: Kind of the error in the body; "" = the one usual for the status.
    error_kind: str = ""
    #: Instead of an answer these bytes, with the status above and as an event stream if one was asked for.
    garbage: str = ""
    #: The connection is dropped after so many events of the stream.
    cut_after: int | None = None
    #: An error event in the stream after so many events (a provider that is overloaded in mid-answer).
    error_after: int | None = None
    #: Seconds before the answer begins, and between two events.
    wait_s: float = 0.0
    pace_s: float = 0.0
    input_tokens: int = 100
    output_tokens: int = 20
    #: Why the model stopped; "" = what follows from text and calls.
    stop: str = ""


@dataclass
class Asked:
    """One request as it came."""

    dialect: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def prompt(self) -> str:
        """The last text of the user (no tool result)."""
        return next((text for message in reversed(self.body.get("messages", [])) if (text := _user_text(message))), "")

    @property
    def step(self) -> int:
        """Messages of the assistant since the last text of the user: 0 for a new turn."""
        count = 0
        for message in reversed(self.body.get("messages", [])):
            if _user_text(message):
                return count
            count += message.get("role") == "assistant"
        return count

    @property
    def results(self) -> list[str]:
        """Texts of the tool results since the last text of the user."""
        found: list[str] = []
        for message in reversed(self.body.get("messages", [])):
            if _user_text(message):
                break
            if message.get("role") == "tool":
                found.append(str(message["content"]))
            elif message.get("role") == "user":
                found += [_plain(part.get("content")) for part in reversed(message["content"])]
        return found[::-1]


def _user_text(message: dict[str, Any]) -> str:
    if message.get("role") != "user":
        return ""
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or () if part.get("type") == "text")


def _plain(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content or ())


Script = Callable[[Asked], Reply]


def in_order(replies: Sequence[Reply]) -> Script:
    """The replies one after the other, whoever asks."""
    left = list(replies)

    def script(asked: Asked) -> Reply:
        return left.pop(0) if left else echo(asked)

    return script


def rules(table: Sequence[dict[str, Any]]) -> Script:
    """The first rule whose `when` (a regular expression) is found in the prompt: first its `faults`, one a request,
    then its `steps`, each by the step that the turn is at."""
    given: dict[int, int] = {}

    def script(asked: Asked) -> Reply:
        for number, rule in enumerate(table):
            if not re.search(rule.get("when", ""), asked.prompt):
                continue
            faults = rule.get("faults", [])
            if given.get(number, 0) < len(faults):
                given[number] = given.get(number, 0) + 1
                return reply_from(faults[given[number] - 1])
            steps = rule["steps"]
            return reply_from(steps[min(asked.step, len(steps) - 1)])
        return echo(asked)

    return script


def reply_from(data: dict[str, Any]) -> Reply:
    """A reply as the script file has it. Raises TypeError on an unknown field."""
    return Reply(**{**data, "calls": [tuple(call) for call in data.get("calls", ())]})


def echo(asked: Asked) -> Reply:
    """What is said when nothing is scripted."""
    return Reply(text=f"echo: {asked.prompt}")


def script_from(data: Any) -> Script:
    """The script of a JSON file."""
    if isinstance(data, dict):
        return rules(data["rules"])
    return in_order([reply_from(row) for row in data])


@dataclass
class FakeLLM:
    """The server. `requests` is everything that was asked, in order."""

    script: Script = echo
    #: The key that is right; "" = every key is.
    key: str = ""
    requests: list[Asked] = field(default_factory=list)
    url: str = ""
    #: Answers that are being given now, and the most there were at once.
    busy: int = 0
    busy_max: int = 0

    def app(self) -> web.Application:
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.router.add_post("/{prefix:.*}v1/messages", self._messages)
        app.router.add_post("/{prefix:.*}v1/chat/completions", self._completions)
        return app

    @asynccontextmanager
    async def serve(self, port: int = 0, unix: Path | None = None) -> AsyncIterator[FakeLLM]:
        """Serve on 127.0.0.1 (`url` says where) or on a Unix socket until the block is left."""
        runner = web.AppRunner(self.app(), shutdown_timeout=0.1)
        await runner.setup()
        site: web.BaseSite
        site = web.UnixSite(runner, str(unix)) if unix is not None else web.TCPSite(runner, "127.0.0.1", port)
        try:
            await site.start()
            if unix is None:
                self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield self
        finally:
            await runner.cleanup()

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        # The SDK of today sends its key as a bearer, the API takes either.
        return await self._answer(request, "anthropic", request.headers.get("x-api-key") or _bearer(request))

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, "openai", _bearer(request))

    async def _answer(self, request: web.Request, dialect: str, key: str) -> web.StreamResponse:
        try:
            body = await request.json()
        except ValueError:
            return _error(dialect, Reply(status=400, text="the body is no JSON"))
        asked = Asked(dialect, request.path, {name.lower(): value for name, value in request.headers.items()}, body)
        self.requests.append(asked)
        if wrong := _wrong(dialect, body):
            return _error(dialect, Reply(status=400, text=wrong))
        if self.key and key != self.key:
            return _error(dialect, Reply(status=401, text="invalid x-api-key"))
        reply = self.script(asked)
        self.busy += 1
        self.busy_max = max(self.busy_max, self.busy)
        try:
            await asyncio.sleep(reply.wait_s)
            if reply.garbage:
                kind = "text/event-stream" if body.get("stream") else "application/json"
                return web.Response(body=reply.garbage.encode(), status=reply.status, content_type=kind)
            if reply.status != 200:
                return _error(dialect, reply)
            if body.get("stream"):
                return await _stream(request, dialect, reply, body)
            whole = _message(reply, body) if dialect == "anthropic" else _completion(reply, body)
            return web.json_response(whole)
        finally:
            self.busy -= 1


def _bearer(request: web.Request) -> str:
    return request.headers.get("authorization", "").removeprefix("Bearer ")


def _wrong(dialect: str, body: dict[str, Any]) -> str:
    """What the real servers refuse: a call without its result, a result without a call, an empty text."""
    if not body.get("model") or not body.get("messages"):
        return "model and messages are required"
    if dialect == "anthropic" and not isinstance(body.get("max_tokens"), int):
        return "max_tokens: Field required"
    open_calls: set[str] = set()
    for message in body["messages"]:
        calls, results, texts = _parts(message)
        if results - open_calls:
            return f"unexpected tool result {sorted(results - open_calls)}"
        if open_calls - results and (message["role"] != "tool"):
            return f"tool calls without results: {sorted(open_calls - results)}"
        open_calls = (open_calls - results) | calls
        if any(not text for text in texts):
            return "text content blocks must be non-empty"
    return f"tool calls without results: {sorted(open_calls)}" if open_calls else ""


def _parts(message: dict[str, Any]) -> tuple[set[str], set[str], list[str]]:
    """Ids of the calls, ids of the results, and the texts of a message, in either dialect."""
    calls = {call["id"] for call in message.get("tool_calls") or ()}
    results = {message["tool_call_id"]} if message.get("role") == "tool" else set()
    content = message.get("content")
    if isinstance(content, str) or content is None:
        return calls, results, [] if content is None else [content]
    calls |= {part["id"] for part in content if part["type"] == "tool_use"}
    results |= {part["tool_use_id"] for part in content if part["type"] == "tool_result"}
    return calls, results, [part["text"] for part in content if part["type"] == "text"]


_KINDS = {
    400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
    404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error", 529: "overloaded_error",
}


def _error(dialect: str, reply: Reply) -> web.Response:
    kind = reply.error_kind or _KINDS.get(reply.status, "api_error")
    error = {"type": kind, "message": reply.text or f"status {reply.status}"}
    if dialect == "openai":
        body: dict[str, Any] = {"error": {**error, "param": None, "code": reply.error_kind or None}}
    else:
        body = {"type": "error", "error": error, "request_id": "req_fake"}
    headers = {"Retry-After": reply.retry_after} if reply.retry_after else {}
    return web.json_response(body, status=reply.status, headers=headers)


async def _stream(request: web.Request, dialect: str, reply: Reply, body: dict[str, Any]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    events = _message_events(reply, body) if dialect == "anthropic" else _completion_events(reply, body)
    for number, event in enumerate(events):
        if reply.cut_after == number:
            if request.transport is not None:
                request.transport.abort()
            return response
        if reply.error_after == number:
            await response.write(_error_event(dialect))
            break
        await response.write(event)
        if reply.pace_s:
            await asyncio.sleep(reply.pace_s)
    await response.write_eof()
    return response


def _error_event(dialect: str) -> bytes:
    error = {"type": "overloaded_error", "message": "Overloaded"}
    if dialect == "anthropic":
        return f"event: error\ndata: {json.dumps({'type': 'error', 'error': error})}\n\n".encode()
    return f"data: {json.dumps({'error': error})}\n\n".encode()


def _pieces(text: str) -> list[str]:
    """Cut as a stream would come, in the middle of words."""
    return [text[start : start + 7] for start in range(0, len(text), 7)]


def _arguments(args: Any) -> str:
    """Text is sent as it is, so that a script can send broken arguments."""
    return args if isinstance(args, str) else json.dumps(args)


# --- Anthropic --------------------------------------------------------------------------------------------------


def _message(reply: Reply, body: dict[str, Any]) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "text", "text": reply.text}] if reply.text else []
    content += [
        {"type": "tool_use", "id": f"toolu_{number:04}", "name": name, "input": args}
        for number, (name, args) in enumerate(reply.calls)
    ]
    return {
        "id": "msg_fake", "type": "message", "role": "assistant", "model": body["model"], "content": content,
        "stop_reason": reply.stop or ("tool_use" if reply.calls else "end_turn"), "stop_sequence": None,
        "usage": {"input_tokens": reply.input_tokens, "output_tokens": reply.output_tokens},
    }


def _message_events(reply: Reply, body: dict[str, Any]) -> Iterator[bytes]:
    def event(kind: str, **data: Any) -> bytes:
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()

    whole = _message(reply, body)
    start = {**whole, "content": [], "stop_reason": None, "usage": {**whole["usage"], "output_tokens": 1}}
    yield event("message_start", message=start)
    yield event("ping")
    for index, block in enumerate(whole["content"]):
        if block["type"] == "text":
            yield event("content_block_start", index=index, content_block={"type": "text", "text": ""})
            for piece in _pieces(block["text"]):
                yield event("content_block_delta", index=index, delta={"type": "text_delta", "text": piece})
        else:
            yield event("content_block_start", index=index, content_block={**block, "input": {}})
            for piece in _pieces(_arguments(block["input"])):
                delta = {"type": "input_json_delta", "partial_json": piece}
                yield event("content_block_delta", index=index, delta=delta)
        yield event("content_block_stop", index=index)
    yield event(
        "message_delta", delta={"stop_reason": whole["stop_reason"], "stop_sequence": None},
        usage={"output_tokens": reply.output_tokens},
    )
    yield event("message_stop")


# --- OpenAI -----------------------------------------------------------------------------------------------------


def _completion(reply: Reply, body: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text or None}
    if reply.calls:
        message["tool_calls"] = [
            {"id": f"call_{number:04}", "type": "function", "function": {"name": name, "arguments": _arguments(args)}}
            for number, (name, args) in enumerate(reply.calls)
        ]
    return {
        "id": "chatcmpl-fake", "object": "chat.completion", "created": 0, "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": _finish(reply), "logprobs": None}],
        "usage": _usage(reply),
    }


def _finish(reply: Reply) -> str:
    return reply.stop or ("tool_calls" if reply.calls else "stop")


def _usage(reply: Reply) -> dict[str, int]:
    return {
        "prompt_tokens": reply.input_tokens, "completion_tokens": reply.output_tokens,
        "total_tokens": reply.input_tokens + reply.output_tokens,
    }


def _completion_events(reply: Reply, body: dict[str, Any]) -> Iterator[bytes]:
    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        return event([{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}])

    def event(choices: list[Any], **more: Any) -> bytes:
        data = {
            "id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": 0, "model": body["model"],
            "choices": choices, **more,
        }
        return f"data: {json.dumps(data)}\n\n".encode()

    yield chunk({"role": "assistant", "content": ""})
    for piece in _pieces(reply.text):
        yield chunk({"content": piece})
    for index, (name, args) in enumerate(reply.calls):
        head = {"name": name, "arguments": ""}
        yield chunk({"tool_calls": [{"index": index, "id": f"call_{index:04}", "type": "function", "function": head}]})
        for piece in _pieces(_arguments(args)):
            yield chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    yield chunk({}, _finish(reply))
    if (body.get("stream_options") or {}).get("include_usage"):
        yield event([], usage=_usage(reply))
    yield b"data: [DONE]\n\n"


async def _main() -> None:
    parser = argparse.ArgumentParser(description="A scripted model server on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--script", type=Path, help="JSON file with replies or rules")
    parser.add_argument("--key", default="", help="the only key that is right")
    args = parser.parse_args()
    script = script_from(json.loads(args.script.read_text())) if args.script else echo
    async with FakeLLM(script=script, key=args.key).serve(args.port) as server:
        print(server.url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(_main())
