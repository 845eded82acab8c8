"""OpenAI's Chat Completions, by the official SDK: also the dialect of Ollama, llama.cpp, vLLM and LM Studio."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import msgspec

from microclaw.agent import door, told
from microclaw.agent.conversation import Call, Said, Usage, provider_call_id
from microclaw.agent.models import Ask, ModelError
from microclaw.agent.workspace import Workspace
from microclaw.core.worker import Setup

if TYPE_CHECKING:
    from openai import AsyncOpenAI


class OpenAIModel:
    """Streams, and takes an answer only when it came whole."""

    def __init__(self, setup: Setup, workspace: Workspace) -> None:
        self._model = setup.model
        self._max_tokens = setup.max_tokens
        self._zone = ZoneInfo(setup.timezone or "UTC")
        self._socket = workspace.egress_socket
        self._client: AsyncOpenAI | None = None
        self._opening = asyncio.Lock()
        #: Servers know the bound under the new name or only under the old one; the first refusal tells.
        self._bound_name = "max_completion_tokens"

    async def prewarm(self) -> None:
        """Import the SDK, which takes longer than all the rest of the start."""
        await self._open()

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    async def _open(self) -> AsyncOpenAI:
        async with self._opening:
            if self._client is None:
                self._client = await asyncio.to_thread(self._make)
            return self._client

    def _make(self) -> AsyncOpenAI:
        try:
            from openai import AsyncOpenAI
        except ImportError as error:
            raise door.missing("openai") from error
        return AsyncOpenAI(
            api_key=door.PLACEHOLDER_KEY, base_url=f"{door.LLM_URL}/v1", http_client=door.open_door(self._socket),
            max_retries=0,  # the loop asks again: it knows the deadline, and a cut stream too is worth another try
        )

    async def say(self, ask: Ask) -> Said:
        if not (ask.model or self._model):
            raise ModelError("bad_request", "no model is named; write [model] name = \"…\" in the configuration file")
        try:
            return await self._say(ask)
        except ModelError as error:
            if error.code != "bad_request" or self._bound_name not in str(error):
                raise
            self._bound_name = "max_tokens"
            return await self._say(ask)

    async def _say(self, ask: Ask) -> Said:
        client = await self._open()
        import httpx2
        import openai

        reading = _Reading(ask.turn.run_id, len(ask.turn.steps))
        try:
            stream = await client.chat.completions.create(**self._request(ask), stream=True)
            async with stream:
                async for chunk in stream:
                    reading.take(chunk)
                    if ask.writing is not None:
                        ask.writing(reading.text)
        except openai.APIStatusError as error:
            raise door.refusal(error.status_code, error.body, error.response.headers) from error
        except (openai.APIConnectionError, httpx2.HTTPError) as error:
            raise door.unreachable(error) from error
        except openai.APIError as error:
            # An error in the middle of a stream that began well; without a body it is no answer at all.
            raise (door.refusal(200, error.body, {}) if error.body else door.garbage(error)) from error
        except (ValueError, TypeError, AttributeError) as error:
            raise door.garbage(error) from error  # the SDK does not check what it reads from a stream
        if not reading.is_whole:
            raise door.cut()
        return reading.said()

    def _request(self, ask: Ask) -> dict[str, Any]:
        request: dict[str, Any] = {
            "model": ask.model or self._model,
            self._bound_name: self._max_tokens,
            "messages": _messages(ask, self._zone),
            "tools": [
                {
                    "type": "function",
                    "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
                }
                for tool in ask.tools
            ],
            "stream_options": {"include_usage": True},
        }
        if ask.no_more_calls:
            request["tool_choice"] = "none"
        return request


def _messages(ask: Ask, zone: ZoneInfo) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = [{"role": "system", "content": ask.system}]
    for turn in ask.turns:
        messages.append({"role": "user", "content": told.prompt_text(turn, zone)})
        for step in turn.steps:
            said: dict[str, Any] = {"role": "assistant", "content": step.said.text or None}
            if step.said.calls:
                said["tool_calls"] = [_call(call) for call in step.said.calls]
            elif not step.said.text:
                said["content"] = told.NOTHING
            messages.append(said)
            messages += [
                {"role": "tool", "tool_call_id": provider_call_id(call.call_id), "content": text}
                for call, _, text in told.results(step)
            ]
            if step.doubt:
                messages.append({"role": "user", "content": step.doubt})
        if turn is not ask.turn and (end := told.ending(turn)):
            messages.append({"role": "assistant", "content": end})
    return messages


def _call(call: Call) -> dict[str, Any]:
    arguments = msgspec.json.encode(call.args).decode()
    return {
        "id": provider_call_id(call.call_id), "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }


class _Reading:
    """A message as it comes in."""

    def __init__(self, run_id: str, step: int) -> None:
        self._run_id, self._step = run_id, step
        self._texts: list[str] = []
        #: Name and JSON of the arguments of each call, by its index in the message.
        self._calls: dict[int, tuple[str, list[str]]] = {}
        self._usage = Usage()
        self._finish = ""

    @property
    def is_whole(self) -> bool:
        return bool(self._finish)

    def take(self, chunk: Any) -> None:
        if chunk.usage is not None:
            self._usage = Usage(input=chunk.usage.prompt_tokens or 0, output=chunk.usage.completion_tokens or 0)
        for choice in chunk.choices or ():
            self._finish = choice.finish_reason or self._finish
            if choice.delta is None:
                continue
            self._texts += [text for text in (choice.delta.content, choice.delta.refusal) if text]
            for part in choice.delta.tool_calls or ():
                self._take_call(part)

    def _take_call(self, part: Any) -> None:
        """A piece of a call. Some servers send whole calls, all with index 0: a second name begins a new call."""
        index = part.index if part.index is not None else len(self._calls)
        known = self._calls.get(index)
        if known is not None and part.function.name and known[0] and known[1]:
            index, known = len(self._calls), None
        name, arguments = known or ("", [])
        if part.function.arguments:
            arguments.append(part.function.arguments)
        self._calls[index] = (name or part.function.name or "", arguments)

    def text(self) -> str:
        return "".join(self._texts).strip()

    def said(self) -> Said:
        calls: list[Call] = [
            told.read_call(self._run_id, self._step, index, name, "".join(parts))
            for index, (name, parts) in enumerate(self._calls.values())
        ]
        return Said(
            text=self.text(), calls=tuple(calls), usage=self._usage, is_cut=self._finish == "length"
        )
