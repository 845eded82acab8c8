"""The scripted server is a server: the SDKs speak to it over TCP, streaming or not, and it runs as a program."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import anthropic
import httpx2
import openai
import pytest
from tests.fakes.llm_server import FakeLLM, Reply, in_order, rules

TOOL = {"name": "add", "description": "adds", "input_schema": {"type": "object", "properties": {}}}


@pytest.mark.parametrize("stream", [False, True])
async def test_anthropics_sdk_gets_text_and_calls(stream: bool) -> None:
    script = in_order([Reply(text="two of them", calls=[("add", {"a": 1}), ("add", {"a": 2})], output_tokens=7)])
    async with (
        FakeLLM(script, key="right").serve() as server,
        anthropic.AsyncAnthropic(api_key="right", base_url=server.url, max_retries=0) as client,
    ):
        ask = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], "tools": [TOOL]}
        if stream:
            async with client.messages.stream(**ask) as events:  # type: ignore[arg-type]
                message = await events.get_final_message()
        else:
            message = await client.messages.create(**ask)  # type: ignore[call-overload]
    assert [block.type for block in message.content] == ["text", "tool_use", "tool_use"]
    assert message.content[0].text == "two of them"
    assert [block.input for block in message.content[1:]] == [{"a": 1}, {"a": 2}]
    assert (message.stop_reason, message.usage.output_tokens) == ("tool_use", 7)


@pytest.mark.parametrize("stream", [False, True])
async def test_openais_sdk_gets_text_and_calls(stream: bool) -> None:
    script = in_order([Reply(text="two of them", calls=[("add", {"a": 1}), ("add", {"a": 2})])])
    async with (
        FakeLLM(script, key="right").serve() as server,
        openai.AsyncOpenAI(api_key="right", base_url=f"{server.url}/v1", max_retries=0) as client,
    ):
        ask = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        if stream:
            async with client.chat.completions.stream(**ask) as events:  # type: ignore[arg-type]
                completion = await events.get_final_completion()
        else:
            completion = await client.chat.completions.create(**ask)  # type: ignore[call-overload]
    message = completion.choices[0].message
    assert message.content == "two of them"
    assert [json.loads(call.function.arguments) for call in message.tool_calls] == [{"a": 1}, {"a": 2}]


async def test_a_wrong_key_is_refused_in_both_dialects() -> None:
    async with FakeLLM(key="right").serve() as server:
        async with anthropic.AsyncAnthropic(api_key="wrong", base_url=server.url, max_retries=0) as one:
            with pytest.raises(anthropic.AuthenticationError):
                await one.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "hi"}])
        async with openai.AsyncOpenAI(api_key="wrong", base_url=f"{server.url}/v1", max_retries=0) as two:
            with pytest.raises(openai.AuthenticationError):
                await two.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])


async def test_rules_serve_many_conversations_at_once() -> None:
    script = rules([
        {"when": "weather", "steps": [{"calls": [["look", {}]]}, {"text": "sunny"}], "faults": [{"status": 529}]},
    ])
    async with FakeLLM(script).serve() as server, httpx2.AsyncClient() as client:
        async def ask(*messages: dict[str, object]) -> httpx2.Response:
            return await client.post(f"{server.url}/v1/chat/completions", json={"model": "m", "messages": messages})

        user = {"role": "user", "content": "the weather?"}
        call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
        assert (await ask(user)).status_code == 529
        first = (await ask(user)).json()["choices"][0]
        assert first["finish_reason"] == "tool_calls"
        done = await ask(
            user, {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "sun"},
        )
        assert done.json()["choices"][0]["message"]["content"] == "sunny"
        other = await ask({"role": "user", "content": "other"})
        assert other.json()["choices"][0]["message"]["content"] == "echo: other"
        assert (await ask(user, {"role": "assistant", "content": None, "tool_calls": [call]}, user)).status_code == 400


async def test_it_runs_as_a_program_with_a_script_file(tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    script.write_text(json.dumps([{"text": "from the file"}]))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.fakes.llm_server", "--script", str(script), stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    try:
        assert process.stdout is not None
        url = (await asyncio.wait_for(process.stdout.readline(), 30)).decode().strip()
        async with openai.AsyncOpenAI(api_key="k", base_url=f"{url}/v1", max_retries=0) as client:
            answer = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
        assert answer.choices[0].message.content == "from the file"
    finally:
        process.kill()
        await process.wait()
