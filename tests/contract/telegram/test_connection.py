"""Staying connected to Telegram, and saying what is wrong."""

from __future__ import annotations

import asyncio
import subprocess
import sys

from tests.contract.processes import until
from tests.contract.telegram.bot import World, telegram
from tests.fakes.telegram_server import Fault

#: Imported whole it takes 165.
IMPORT_MIB_MAX = 110


async def trouble(world: World, *words: str) -> None:
    async def told() -> bool:
        said = (await world.status()).trouble
        return all(word in said for word in words)

    await until(told)


async def test_the_status_says_who_we_are_and_pain10_a_quiet_chat_is_not_a_dead_one() -> None:
    async with telegram() as world:
        world.server.says("hello")
        await world.heard(1)
        seen = await world.status()
        assert (seen.state, seen.account, seen.failures) == ("connected", "@crab_bot", 0)
        polls = len(world.server.called("getUpdates"))
        await asyncio.sleep(2.0)
        assert len(world.server.called("getUpdates")) <= polls + 1
        assert (await world.status()).state == "connected"


async def test_a_wrong_token_is_told_with_what_to_do_and_never_shown() -> None:
    async with telegram(start=False) as world:
        world.secret[0] = "99:wrong-token"
        world.made.start("telegram")
        await trouble(world, "refuses the token", "microclaw secrets set telegram")
        assert (await world.status()).state == "logged_out"
        assert "wrong-token" not in world.made.log("telegram")


async def test_a_secret_that_is_no_token_is_told() -> None:
    async with telegram(start=False) as world:
        world.secret[0] = "my password"
        world.made.start("telegram")
        await trouble(world, "no bot's token", "@BotFather")
        assert "my password" not in world.made.log("telegram")


async def test_another_program_with_the_same_token_is_told_and_a_webhook_too() -> None:
    async with telegram(start=False) as world:
        world.server.faults["getUpdates"] = [Fault(409, "Conflict: terminated by other getUpdates request")] * 50
        world.made.start("telegram")
        await trouble(world, "another program polls with this bot's token")
        world.server.webhook = "https://other.test"
        world.server.faults.clear()
        await trouble(world, "this bot has a webhook", "deleteWebhook")
        world.server.webhook = ""
        world.server.says("hello")
        assert [message.text for message in await world.heard(1)] == ["hello"]


async def test_a_server_in_trouble_or_in_a_hurry_is_asked_again() -> None:
    async with telegram(start=False) as world:
        world.server.faults["getUpdates"] = [
            Fault(500), Fault(502, "Bad Gateway"), Fault(429, "Too Many Requests", {"retry_after": 1}),
        ]
        world.made.start("telegram")
        world.server.says("hello")
        assert [message.text for message in await world.heard(1)] == ["hello"]
        assert (await world.status()).failures == 0


async def test_the_token_is_in_no_log_whatever_breaks() -> None:
    async with telegram() as world:
        world.server.faults["file"] = [Fault(500), Fault(403)]
        world.server.files["doc"] = b"text"
        world.server.breaks_after.add("hello")
        world.server.says("", document={"file_id": "doc", "file_unique_id": "d", "file_name": "a.txt"})
        await world.heard(1)
        await world.answer("hello")
        await world.server.stop()
        await trouble(world, "can't be reached")
        log = world.made.log("telegram")
        assert "a.txt" not in log
        assert world.server.token.partition(":")[2] not in log


def test_aiogram_is_imported_small_and_its_types_work() -> None:
    program = """
import microclaw.telegram
from aiogram.methods import SendMessage
from aiogram.types import ReplyParameters, Update
raw = {"update_id": 1, "message": {"message_id": 1, "date": 1, "text": "x", "chat": {"id": 5, "type": "private"}}}
assert Update.model_validate(raw).message.chat.id == 5
SendMessage(chat_id=1, text="x", reply_parameters=ReplyParameters(message_id=4)).model_dump(warnings=False)
import resource, sys
if sys.platform == "linux":  # not its ru_maxrss, which an exec takes over from the parent
    print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert int(said) / 1024 < IMPORT_MIB_MAX
