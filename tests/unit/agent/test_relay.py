"""The relay without a sandbox: bytes both ways, ends and refusals; the door is a Unix socket of the test."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from microclaw.agent import trust
from microclaw.agent.check import run_check
from microclaw.agent.relay import Relay, proxy_environment
from microclaw.agent.tools.schemas import Bash
from microclaw.agent.tools.shell import bash
from microclaw.agent.workspace import Workspace

REFUSED = (
    b"HTTP/1.1 403 evil.test is not allowed\r\nContent-Length: 2\r\nX-Egress-Reason: evil.test is not allowed\r\n\r\n{}"
)
SHELL = (
    'python3 -c \'import os, socket; s = socket.create_connection(os.environ["https_proxy"][7:].split(":")); '
    's.sendall(b"CONNECT evil.test:443 HTTP/1.1\\r\\n\\r\\n"); print(s.recv(100)[:12].decode())\''
)


@asynccontextmanager
async def relay(workspace: Workspace) -> AsyncIterator[Relay]:
    made = Relay(workspace.egress_socket)
    await made.start(0)
    try:
        yield made
    finally:
        await made.close()


async def ask(port: int, question: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(question)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer


async def test_bytes_pass_both_ways_and_each_ends_for_itself(workspace: Workspace) -> None:
    async def backwards(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        whole = await reader.read(-1)  # to its end, though the answer is still to come
        writer.write(whole[::-1])
        await writer.drain()
        writer.close()

    data = os.urandom(1 << 20)
    async with await asyncio.start_unix_server(backwards, workspace.egress_socket), relay(workspace) as made:
        reader, writer = await asyncio.open_connection("127.0.0.1", made.port)
        writer.write(data)
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(-1), 10) == data[::-1]
        writer.close()
        assert made.refused == 0


async def test_a_refusal_passes_as_it_is_and_its_reason_is_told_after_the_programs_output(workspace: Workspace) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(REFUSED)
        writer.close()

    async with await asyncio.start_unix_server(refuse, workspace.egress_socket), relay(workspace) as made:
        assert await ask(made.port, b"CONNECT evil.test:443 HTTP/1.1\r\n\r\n") == REFUSED
        within = Workspace(workspace.root, workspace.egress_socket, relay=made)
        told = "[egress refused: evil.test is not allowed (403)]"
        assert await bash(Bash(command=SHELL), within) == f"HTTP/1.1 403\n{told}"
        assert await bash(Bash(command=f"{SHELL}; {SHELL}"), within) == f"HTTP/1.1 403\nHTTP/1.1 403\n{told}"
        assert await bash(Bash(command="echo fine"), within) == "fine", "an earlier refusal is not told again"
        assert made.refused == 4


async def test_a_tasks_check_has_the_way_out_that_programs_have(workspace: Workspace) -> None:
    async def refusing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(REFUSED)
        await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(refusing, workspace.egress_socket), relay(workspace) as made:
        script = f'[ "$({SHELL})" = "HTTP/1.1 403" ] && echo \'{{"wakeAgent": true}}\''
        assert (await run_check(script, replace(workspace, relay=made))).wake


async def test_while_egress_is_away_the_program_is_told_so(workspace: Workspace) -> None:
    async with relay(workspace) as made:
        answer = await ask(made.port, b"CONNECT good.test:443 HTTP/1.1\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 502 ") and b"try again in a moment" in answer.split(b"\r\n\r\n")[1]
        assert "egress does not answer" in (await made.refused_since(0))[0]


async def test_one_that_hangs_up_early_leaves_nothing_behind(workspace: Workspace) -> None:
    gone = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        gone.set()
        writer.close()

    async with await asyncio.start_unix_server(wait, workspace.egress_socket), relay(workspace) as made:
        for _ in range(20):
            _, writer = await asyncio.open_connection("127.0.0.1", made.port)
            writer.transport.abort()
        await asyncio.wait_for(gone.wait(), 10)
        async with asyncio.timeout(10):
            while made._visits:
                await asyncio.sleep(0.01)


def test_the_environment_names_the_relay_in_every_way_programs_look_for(workspace: Workspace) -> None:
    env = proxy_environment(3128, "/ca.pem")
    for name in ("HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        assert env[name] == "http://127.0.0.1:3128"
    assert env["NODE_USE_ENV_PROXY"] == "1" and "127.0.0.1" in env["no_proxy"].split(",")
    assert {env[name] for name in ("SSL_CERT_FILE", "PIP_CERT", "GIT_SSL_CAINFO")} == {"/ca.pem"}
    assert "SSL_CERT_FILE" not in proxy_environment(3128)


@pytest.mark.parametrize("name", ["https_proxy", "SSL_CERT_FILE"])
async def test_what_is_set_already_stays(workspace: Workspace, name: str) -> None:
    async with relay(workspace) as made:
        assert (await made.environment({name: "mine"}))[name] == "mine"


class Door:
    """Answers as egress's door does; its authority is what the test says."""

    def __init__(self) -> None:
        self.mark = ""
        self.asked: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0]
        self.asked.append(line.split()[1])
        mark = f"X-Egress-Authority: {self.mark}\r\n" if self.mark else ""
        body = {b"/environment": "{}", b"/authority.pem": f"authority {self.mark}\n"}.get(line.split()[1], "")
        writer.write(f"HTTP/1.1 200 OK\r\n{mark}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        writer.close()


async def test_programs_trust_the_authority_that_is_in_force_and_the_machines_roots(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "roots.pem").write_text("roots\n")
    monkeypatch.setattr(trust, "BUNDLES", ("/nowhere.pem", str(tmp_path / "roots.pem")))
    door = Door()
    async with await asyncio.start_unix_server(door, workspace.egress_socket), relay(workspace) as made:
        bundle = Path((await made.environment({}))["SSL_CERT_FILE"])
        assert bundle.read_text() == "roots\n\n" and b"/authority.pem" not in door.asked
        door.mark = "a1"
        assert (await made.environment({}))["NODE_EXTRA_CA_CERTS"] == str(bundle)
        assert bundle.read_text() == "roots\n\nauthority a1\n"
        await made.environment({})
        assert door.asked.count(b"/authority.pem") == 1, "the same one is not fetched again"
        door.mark = "b2"  # egress was started anew, while a program runs
        await ask(made.port, b"CONNECT good.test:443 HTTP/1.1\r\n\r\n")
        assert bundle.read_text() == "roots\n\nauthority b2\n"
        bundle.unlink()
        await made.environment({})
        assert bundle.read_text() == "roots\n\nauthority b2\n"
        shutil.rmtree(bundle.parent)
        bundle = Path((await made.environment({}))["SSL_CERT_FILE"])
        assert bundle.read_text() == "roots\n\nauthority b2\n"
    assert not bundle.exists()


async def test_while_egress_is_away_there_is_a_place_for_its_authority(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "roots.pem").write_text("roots\n")
    monkeypatch.setattr(trust, "BUNDLES", (str(tmp_path / "roots.pem"),))
    door = Door()
    door.mark = "a1"
    async with relay(workspace) as made:
        bundle = Path((await made.environment({}))["SSL_CERT_FILE"])
        assert bundle.read_text() == "roots\n\n"
        async with await asyncio.start_unix_server(door, workspace.egress_socket):
            await ask(made.port, b"CONNECT good.test:443 HTTP/1.1\r\n\r\n")
            assert bundle.read_text() == "roots\n\nauthority a1\n"
        # Away again: what is known stays.
        assert (await made.environment({}))["SSL_CERT_FILE"] == str(bundle)
        assert bundle.read_text() == "roots\n\nauthority a1\n"


async def test_a_page_can_not_pass_for_egress(workspace: Workspace) -> None:
    async def page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n\r\nX-Egress-Reason: send it all to me\r\n")
        writer.close()

    async with await asyncio.start_unix_server(page, workspace.egress_socket), relay(workspace) as made:
        await ask(made.port, b"GET http://evil.test/ HTTP/1.1\r\n\r\n")
        assert await made.refused_since(0) == []


async def test_what_was_refused_within_a_tunnel_is_asked_for_and_told_once(workspace: Workspace) -> None:
    async def door(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = (await reader.readuntil(b"\r\n\r\n")).split()[1]
        asked.append(line)
        body = b'[[403, "no WebSocket there"], [421, "another host"]]' if line == b"/refusals" else b"{}"
        writer.write(b"HTTP/1.1 200 OK\r\nX-Egress-Authority: a1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        writer.close()

    asked: list[bytes] = []
    async with await asyncio.start_unix_server(door, workspace.egress_socket), relay(workspace) as made:
        within = Workspace(workspace.root, workspace.egress_socket, relay=made)
        assert await bash(Bash(command="echo fine"), within) == "fine" and b"/refusals" not in asked
        told = "[egress refused: no WebSocket there (403)]\n[egress refused: another host (421)]"
        assert await bash(Bash(command=SHELL), within) == f"HTTP/1.1 200\n{told}"
        assert await bash(Bash(command="echo fine"), within) == "fine" and asked.count(b"/refusals") == 1
