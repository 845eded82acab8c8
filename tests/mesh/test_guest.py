"""A connector of one's own, as docs/connectors.md says: a program beside the mesh, with the rights that stand there."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys

from tests.contract.processes import ask, until
from tests.fakes.chirp_server import ChirpServer
from tests.mesh.harness import Mesh
from tests.tidy.checkout import ROOT, text_of

from microclaw.bus.client import connect
from microclaw.core.people_requests import ChangeUser, UserAnswer
from microclaw.core.requests import ChannelStatus, ChannelStatusAsked


async def test_a_guest_of_the_bus_with_its_own_rights_alone_serves_a_chat_and_is_killed_and_serves_it_still() -> None:
    page = text_of(ROOT / "docs" / "connectors.md")
    (rights,) = re.findall(r"```toml\n(\[bus\.rights\.chirp\].*?)```", page, re.DOTALL)
    server = await ChirpServer().start()
    mesh = Mesh()
    mesh.home.config.write_text(rights)

    def chirp() -> subprocess.Popen[bytes]:
        with (mesh.home.logs / "chirp.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.fakes.chirp_connector", f"127.0.0.1:{server.port}"],
                env=mesh.env, cwd=ROOT, stdout=log, stderr=log,
            )

    guest = None
    try:
        async with mesh:
            guest = chirp()
            owner = await connect(mesh.home.bus, "cli", timeout_s=60.0)
            try:
                await owner.request("router", ChangeUser(
                    command_id="ann", action="add", name="ann", sender="chirp:ann",
                ), UserAnswer)
                server.says("a", "note: the key is under the mat", 1)
                await until(lambda: len(server.sent) == 1)
                guest.kill()
                guest.wait()
                server.says("a", "show notes", 2)
                guest = chirp()
                await until(lambda: len(server.sent) == 2)
                assert server.texts("chirp:a") == ["Noted: the key is under the mat", "1. the key is under the mat"]
                status = await ask(owner, "chirp", ChannelStatusAsked(), ChannelStatus)
                assert (status.state, status.account, status.sent) == ("connected", "bird", 2)
            finally:
                await owner.close()
                guest.terminate()
                assert await asyncio.to_thread(guest.wait, 30) == 0
    finally:
        if guest is not None and guest.poll() is None:
            guest.kill()
        await server.stop()
