"""A stranger writes, is let in at the command line, and is answered: the whole way, as the owner sees it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.contract.processes import until
from tests.mesh.harness import Mesh

from microclaw.bus.api import Bus, Draft, Subscription
from microclaw.core.ids import derived_id, id_text
from microclaw.core.kinds import MessageReceived, ReplyDelivered, ReplyRequested

CHAT = "matrix:!room"


def draft(number: int, text: str) -> Draft:
    received = MessageReceived(
        chat=CHAT, platform_id=str(number), sender="@zoe", sender_name="Zoe", text=text, sent_ms=number,
    )
    return Draft(CHAT, received, message_id=derived_id(1, CHAT, number), ts_ms=1)


async def listen(connector: Bus, told: list[tuple[str, str]]) -> None:
    async for delivery in connector.subscribe(Subscription("matrix", ("reply.requested",), CHAT)):
        told.append((id_text(delivery.envelope.message_id), delivery.envelope.read(ReplyRequested).text))
        await connector.ack(delivery)


async def test_a_stranger_is_let_in_and_answered_and_the_owner_sees_it_all() -> None:
    async with Mesh() as mesh:
        async def cli(*arguments: str, code: int = 0) -> Any:
            done = await asyncio.to_thread(mesh.cli, *arguments, "--json")
            assert done.returncode == code, done.stdout + done.stderr
            return json.loads(done.stdout) if code == 0 else done.stderr

        connector = await mesh.bus("matrix")
        await connector.publish(draft(1, "remember: the key is under the mat"), draft(2, "what time is it?"))
        told: list[tuple[str, str]] = []
        listening = asyncio.create_task(listen(connector, told))
        await until(lambda: len(told) == 1)
        greeting = told[0][1]
        (row,) = await cli("pairing", "list")
        assert row["code"] in greeting.replace("-", "") and row["sender"] == "matrix:@zoe" and row["held"] == 2
        assert [line.text for line in await mesh.replies("console:main", 1) if "matrix:@zoe" in line.text]
        assert "no such code" in await cli("pairing", "approve", "matrix", "2222-2222", code=2)
        paired = await cli("pairing", "approve", "matrix", row["code"])
        assert paired["user"]["name"] == "zoe" and paired["handed_over"] == 2
        await until(lambda: len(told) >= 3)
        listening.cancel()
        answer = told[2]
        assert "let in" in told[1][1]

        assert (await cli("users", "list"))[0]["senders"] == ["matrix:@zoe"]
        group = await cli("groups", "show", "matrix-zoe")
        assert group["chat"] == CHAT and group["users"][0]["name"] == "zoe"
        assert "zoe (member)" in mesh.cli("groups", "show", "matrix-zoe").stdout
        assert "ADMIN" not in mesh.cli("users", "list").stdout and "@zoe" in mesh.cli("users", "list").stdout
        assert (await cli("users", "role", "zoe", "admin"))["role"] == "admin"

        end = ReplyDelivered(chat=CHAT, reply_id=answer[0], status="uncertain", error="the line broke")
        await connector.publish(Draft(CHAT, end, message_id=derived_id(2, answer[0])))
        assert "the line broke" in (await mesh.replies("console:main", 2))[1].text
        (undelivered,) = (await cli("status"))["undelivered"]
        assert (undelivered["group"], undelivered["state"]) == ("matrix-zoe", "uncertain")
        assert "did not arrive" in mesh.cli("status").stdout

        await cli("users", "rm", "zoe")
        assert "no group" in await cli("groups", "show", "matrix-zoe", code=2)
        assert "main group stays" in await cli("groups", "rm", "main", code=1)
        actions = {entry["action"] for entry in await cli("audit", "tail")}
        assert {"pairing.ask", "pairing.approve", "user.role", "user.rm"} <= actions
