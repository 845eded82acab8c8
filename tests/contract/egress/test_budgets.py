"""The day's budget over a real door: hard stop, one notice, limits by hand."""

from __future__ import annotations

import json

import pytest
from tests.contract.egress.through_door import KEY, call, connect, gate, post, read_request, until_written

from microclaw.core.errors import UsageError
from microclaw.core.requests import SetBudget
from microclaw.core.settings import Budget, DayLimit, Price
from microclaw.egress.dial import World

#: As either dialect tells it.
USAGE = {"prompt_tokens": 60, "completion_tokens": 40, "input_tokens": 60, "output_tokens": 40}
PATHS = {"openai": "/llm/v1/chat/completions", "anthropic": "/llm/v1/messages"}


@pytest.fixture
async def model_port(upstream):
    """Each call costs 60 tokens sent and 40 answered."""
    async def server(reader, writer):
        await read_request(reader)
        body = json.dumps({"model": "m-2026", "usage": USAGE}).encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % len(body) + body)

    return await upstream(server)


@pytest.mark.parametrize("backend", ["openai", "anthropic"])
async def test_pain23_over_the_budget_a_call_is_refused_in_the_dialects_form_and_never_sent(home, model_port, backend):
    async with gate(
        home, backend=backend, base_url=f"http://127.0.0.1:{model_port}", budget=Budget(tokens_per_day=150),
    ) as egress:
        egress.secrets.set("llm", KEY)
        door = await egress.doors.open("w1", "home", now_ms=1)
        codes = [(await call(door, post(PATHS[backend], b"{}")))[9:12] for _ in range(3)]
        assert codes == [b"200", b"200", b"402"]
        refused = await call(door, post(PATHS[backend], b"{}"))
        error = json.loads(refused.split(b"\r\n\r\n", 1)[1])["error"]
        assert error["type"] == "billing_error"
        assert "the day's budget of all groups is used up: 200 of 150 tokens" in error["message"]
        assert (await egress.meter.rows())[0].calls == 2, "what was refused is not counted"
        last = (await egress.audit.tail(1))[0]
        assert (last.action, last.outcome) == ("model.call", "deny") and "budget" in last.detail
        assert len(await egress.notices.waiting()) == 1, "told once, however often it is refused"


async def test_a_groups_own_budget_stops_that_group_alone_and_each_is_told_of_once(home, model_port):
    budget = Budget(tokens_per_day=1000, groups={"home": DayLimit(tokens_per_day=50)})
    async with gate(home, base_url=f"http://127.0.0.1:{model_port}", budget=budget) as egress:
        egress.secrets.set("llm", KEY)
        home_door = await egress.doors.open("w1", "home", now_ms=1)
        work_door = await egress.doors.open("w2", "work", now_ms=1)
        assert (await call(home_door, post(PATHS["openai"], b"{}")))[9:12] == b"200"
        assert (await call(home_door, post(PATHS["openai"], b"{}")))[9:12] == b"402"
        assert (await call(work_door, post(PATHS["openai"], b"{}")))[9:12] == b"200"
        [(name, text, _)] = await egress.notices.waiting()
        assert name.endswith(" home") and "Group home" in text and "microclaw budget set" in text


async def test_money_counts_where_prices_are_known(home, model_port):
    budget = Budget(money_per_day=0.001, prices={"m": Price(input=5, output=10)}, currency="EUR")
    async with gate(home, base_url=f"http://127.0.0.1:{model_port}", budget=budget) as egress:
        egress.secrets.set("llm", KEY)
        door = await egress.doors.open("w1", "home", now_ms=1)
        # 60 at 5 and 40 at 10 millionths: 700 a call, of 1000.
        codes = [(await call(door, post(PATHS["openai"], b"{}")))[9:12] for _ in range(3)]
        assert codes == [b"200", b"200", b"402"]
        assert [row.cost_micros for row in egress.budgets.priced(await egress.meter.rows())] == [1400]
        [everybody, group] = (await egress.budgets.shown()).rows
        assert (everybody.money_per_day_micros, everybody.spent_micros, group.group) == (1000, 1400, "home")


async def test_a_budget_set_by_hand_holds_at_once_and_after_a_restart(home, model_port):
    async with gate(home, base_url=f"http://127.0.0.1:{model_port}") as egress:
        egress.secrets.set("llm", KEY)
        door = await egress.doors.open("w1", "home", now_ms=1)
        await egress.budgets.set(SetBudget(tokens_per_day=1))
        assert (await call(door, post(PATHS["openai"], b"{}")))[9:12] == b"200"
        assert (await call(door, post(PATHS["openai"], b"{}")))[9:12] == b"402"
        with pytest.raises(UsageError, match="prices"):
            await egress.budgets.set(SetBudget(money_per_day=1.0))
        with pytest.raises(UsageError, match="--tokens or --money"):
            await egress.budgets.set(SetBudget(group="home"))
    async with gate(home, base_url=f"http://127.0.0.1:{model_port}") as egress:
        door = egress.doors.folder_of("w1")
        assert (await call(door, post(PATHS["openai"], b"{}")))[9:12] == b"402"
        await egress.budgets.set(SetBudget(forget=True))
        assert (await call(door, post(PATHS["openai"], b"{}")))[9:12] == b"200"


async def test_the_next_day_begins_anew(home, model_port):
    now = [1_700_000_000_000]
    async with gate(
        home, base_url=f"http://127.0.0.1:{model_port}", budget=Budget(tokens_per_day=1),
        world=World(clock_ms=lambda: now[0]),
    ) as egress:
        egress.secrets.set("llm", KEY)
        door = await egress.doors.open("w1", "home", now_ms=1)
        assert (await call(door, post(PATHS["openai"], b"{}")))[9:12] == b"200"
        assert (await call(door, post(PATHS["openai"], b"{}")))[9:12] == b"402"
        now[0] += 24 * 3600 * 1000
        assert (await call(door, post(PATHS["openai"], b"{}")))[9:12] == b"200"
        assert (await call(door, post(PATHS["openai"], b"{}")))[9:12] == b"402"
        assert len(await egress.notices.waiting()) == 2, "one notice a day"


async def test_pain23_hanging_up_before_the_answer_tells_its_cost_does_not_get_round_the_budget(home, upstream):
    async def server(reader, writer):
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: {}\n\n")
        await writer.drain()
        await reader.read()

    port = await upstream(server)
    async with gate(
        home, base_url=f"http://127.0.0.1:{port}", budget=Budget(tokens_per_day=1000),
    ) as egress:
        egress.secrets.set("llm", KEY)
        door = await egress.doors.open("w1", "home", now_ms=1)
        reader, writer = await connect(door)
        writer.write(post(PATHS["openai"], b"x" * 8000))
        await reader.readuntil(b"data: {}")
        writer.close()
        await until_written(egress, lambda entry: entry.outcome == "cut")
        assert await egress.meter.rows()
        assert (await call(door, post(PATHS["openai"], b"{}")))[9:12] == b"402"
