"""A new installation, set up by flags alone, and again."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from tests.contract.processes import until
from tests.fakes.telegram_server import TOKEN, TelegramServer
from tests.mesh.harness import Mesh

from microclaw.core.settings import load


def ended(mesh: Mesh, *arguments: str, stdin: str = "", code: int = 0) -> Any:
    done = mesh.cli(*arguments, "--json", stdin=stdin, timeout_s=120)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout) if done.stdout else done.stderr


def test_onboard_goes_through_all_steps_by_flags_and_may_be_done_again() -> None:
    mesh = Mesh()
    try:
        first = ended(mesh, "onboard", "--name", "Zed", "--backend", "local")
        assert list(first.values())[:3] == ["started", "skipped: it stays local", "Zed"]
        assert first["the first answer"].startswith("it says: ") and "nowhere else" in first["the sandbox"]
        assert first["a channel"].startswith("skipped") and first["you, its owner"].startswith("skipped")
        assert load(mesh.home.config, {}).assistant.name == "Zed"
        again = ended(mesh, "onboard", "--no-test")
        assert again["MicroClaw runs"] == "it runs" and again["its name"] == "skipped: it stays Zed"
        # A step that fails is told, those after it are done.
        wrong = ended(
            mesh, "onboard", "--no-test", "--backend", "openai", "--channel", "email", "--no-install", code=5
        )
        assert "needs a name" in wrong["what thinks"] and wrong["a channel"].startswith("failed")
        assert wrong["the sandbox"] == "skipped"
    finally:
        mesh.cli("down")
        mesh.stop()


def test_channels_are_added_and_removed_in_the_configuration_by_name() -> None:
    mesh = Mesh()
    assert [each["enabled"] for each in ended(mesh, "channels", "list")] == [False] * 4
    said = mesh.cli("channels", "add", "telegram", "--no-install")
    assert said.returncode == 0 and "channels login telegram" in said.stdout, said.stderr
    assert load(mesh.home.config, {}).channels.enabled() == ("telegram",)
    mesh.cli(
        "channels", "add", "email", "--no-install", "--set", "address=me@example.org", "--set", "imap_host=imap.test"
    )
    settings = load(mesh.home.config, {})
    assert settings.channels.enabled() == ("telegram", "email") and settings.channels.email.imap_host == "imap.test"
    assert "not a known key" in mesh.cli("channels", "add", "email", "--no-install", "--set", "x=1").stderr
    assert "not running" in mesh.cli("channels", "status").stderr
    ended(mesh, "channels", "remove", "telegram")
    assert load(mesh.home.config, {}).channels.enabled() == ("email",)
    assert mesh.cli("channels", "login", "imessage").returncode == 2
    if sys.platform != "darwin":
        assert "needs Messages on a Mac" in mesh.cli("channels", "add", "imessage").stderr
    assert load(mesh.home.config, {}).channels.enabled() == ("email",)
    said = mesh.cli("channels", "status", "telegram")
    assert said.returncode == 3 and "telegram is not in use" in said.stderr


async def test_onboard_walks_one_channel_to_its_owner_and_an_answer_there(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    server = await TelegramServer().start()
    mesh = Mesh()

    async def microclaw(*arguments: str) -> Any:
        return await asyncio.to_thread(ended, mesh, *arguments)

    try:
        done = await microclaw(
            "onboard", "--no-test", "--channel", "telegram", "--no-install", "--secret-file", str(token),
            "--set", f"api_url={server.url}",
        )
        assert done["a channel"].startswith("telegram is connected"), done
        (status,) = await microclaw("channels", "status")
        assert (status["channel"], status["state"]) == ("telegram", "connected")
        server.says("add eggs to the shopping list", chat=7)
        await until(lambda: len(server.texts(7)) == 1)
        (row,) = await microclaw("pairing", "list")
        again = await microclaw("onboard", "--no-test", "--channel", "telegram", "--owner-code", row["code"])
        assert "is the owner" in again["you, its owner"], again
        await until(lambda: len(server.texts(7)) == 3)
        assert "no language model yet" in server.texts(7)[2]
        server.says("/whoami", chat=7)
        await until(lambda: any("my owner" in text for text in server.texts(7)))
        assert (await microclaw("groups", "show", "main"))["joined"] == ["telegram:7"]
        assert TOKEN not in mesh.home.config.read_text()
    finally:
        await asyncio.to_thread(mesh.cli, "down")
        await server.stop()
        await asyncio.to_thread(mesh.stop)
