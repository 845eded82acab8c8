"""Anthropic's Messages API, by its official SDK."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from microclaw.agent import door, told
from microclaw.agent.conversation import Call, Said, Usage, provider_call_id
from microclaw.agent.models import Ask
from microclaw.agent.workspace import Workspace
from microclaw.core.worker import Setup

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

#: Asked when the configuration names no model.
DEFAULT_MODEL = "claude-sonnet-5-5"


class AnthropicModel:
    """Streams, and takes an answer only when it came whole."""

    def __init__(self, setup: Setup, workspace: Workspace) -> None:
        self._model = setup.model or DEFAULT_MODEL
        self._max_tokens = setup.max_tokens
        self._zone = ZoneInfo(setup.timezone or "UTC")
        self._socket = workspace.egress_socket
        self._client: AsyncAnthropic | None = None
        self._opening = asyncio.Lock()

    async def prewarm(self) -> None:
        """Import the SDK, which takes longer than all the rest of the start."""
        await self._open()

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    async def _open(self) -> AsyncAnthropic:
        async with self._opening:
            if self._client is None:
                self._client = await asyncio.to_thread(self._make)
            return self._client

    def _make(self) -> AsyncAnthropic:
        try:
            from anthropic import AsyncAnthropic
        except ImportError as error:
            raise door.missing("anthropic") from error
        return AsyncAnthropic(
            api_key=door.PLACEHOLDER_KEY, base_url=door.LLM_URL, http_client=door.open_door(self._socket),
            max_retries=0,  # the loop asks again: it knows the deadline, and a cut stream too is worth another try
        )

    async def say(self, ask: Ask) -> Said:
        client = await self._open()
        import anthropic
        import httpx2

        reading = _Reading(ask.turn.run_id, len(ask.turn.steps))
        try:
            stream = await client.messages.create(**self._request(ask), stream=True)
            async with stream:
                async for event in stream:
                    reading.take(event)
                    if ask.writing is not None:
                        ask.writing(reading.text)
        except anthropic.APIStatusError as error:
            raise door.refusal(error.status_code, error.body, error.response.headers) from error
        except (anthropic.APIConnectionError, httpx2.HTTPError) as error:
            raise door.unreachable(error) from error
        except (anthropic.APIError, ValueError, TypeError, AttributeError) as error:
            raise door.garbage(error) from error  # the SDK does not check what it reads from a stream
        if not reading.is_whole:
            raise door.cut()
        return reading.said()

    def _request(self, ask: Ask) -> dict[str, Any]:
        messages = _messages(ask, self._zone)
        # Everything up to here is the same at the next step: the provider need not read it again.
        messages[-1]["content"][-1]["cache_control"] = {"type": "ephemeral"}
        request: dict[str, Any] = {
            "model": ask.model or self._model,
            "max_tokens": self._max_tokens,
            "system": [{"type": "text", "text": ask.system, "cache_control": {"type": "ephemeral"}}],
            "messages": messages,
            "tools": [
                {"name": tool.name, "description": tool.description, "input_schema": tool.parameters}
                for tool in ask.tools
            ],
        }
        if ask.no_more_calls:
            request["tool_choice"] = {"type": "none"}
        return request


def _messages(ask: Ask, zone: ZoneInfo) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for turn in ask.turns:
        messages.append(_message("user", [_text(told.prompt_text(turn, zone))]))
        for step in turn.steps:
            said = [_text(step.said.text)] if step.said.text.strip() else []
            calls = [
                {"type": "tool_use", "id": provider_call_id(call.call_id), "name": call.name, "input": call.args}
                for call in step.said.calls
            ]
            messages.append(_message("assistant", [*said, *calls] or [_text(told.NOTHING)]))
            if calls:
                messages.append(_message("user", [
                    {
                        "type": "tool_result", "tool_use_id": provider_call_id(call.call_id), "content": [_text(text)],
                        "is_error": not ok,
                    }
                    for call, ok, text in told.results(step)
                ]))
            if step.doubt:
                messages.append(_message("user", [_text(step.doubt)]))
        if turn is not ask.turn and (end := told.ending(turn)):
            messages.append(_message("assistant", [_text(end)]))
    return messages


def _message(role: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {"role": role, "content": content}


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


class _Reading:
    """A message as it comes in."""

    def __init__(self, run_id: str, step: int) -> None:
        self._run_id, self._step = run_id, step
        self._texts: list[str] = []
        #: Name and JSON of the arguments of each call, by its place in the message.
        self._calls: dict[int, list[str]] = {}
        self._input = self._output = 0
        self._stop = ""
        self.is_whole = False

    def take(self, event: Any) -> None:
        match event.type:
            case "message_start":
                usage = event.message.usage
                self._input = (
                    usage.input_tokens + (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
                )
            case "content_block_start" if event.content_block.type == "tool_use":
                self._calls[event.index] = [event.content_block.name]
            case "content_block_start" if event.content_block.type == "text":
                self._texts.append(event.content_block.text)
            case "content_block_delta" if event.delta.type == "text_delta":
                self._texts.append(event.delta.text)
            case "content_block_delta" if event.delta.type == "input_json_delta":
                self._calls[event.index].append(event.delta.partial_json)
            case "message_delta":
                self._stop = event.delta.stop_reason or ""
                self._output = event.usage.output_tokens
            case "message_stop":
                self.is_whole = True

    def text(self) -> str:
        return "".join(self._texts).strip()

    def said(self) -> Said:
        calls: list[Call] = [
            told.read_call(self._run_id, self._step, index, name, "".join(parts))
            for index, (name, *parts) in enumerate(self._calls.values())
        ]
        return Said(
            text=self.text(), calls=tuple(calls), usage=Usage(input=self._input, output=self._output),
            is_cut=self._stop == "max_tokens",
        )
