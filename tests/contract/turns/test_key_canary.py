"""A canary for the model's key: real processes, the real SDKs in a real sandbox, a server that gives the key back in
every way it can. Afterwards it is nowhere but in the secret's own file."""

from __future__ import annotations

import base64
import json
import signal
from pathlib import Path

import pytest
from tests.contract.processes import ask
from tests.contract.turns.desk import Desk
from tests.fakes.llm_server import Asked, FakeLLM, Reply

from microclaw.core.requests import AuditAsked, AuditEntries, SecretAnswer, Secrets, SecretsAsked, SetSecret
from microclaw.core.scrub import forms

pytestmark = pytest.mark.usefixtures("bubblewrap")

#: With what JSON, URLs and base64 write differently.
KEY = "sk-ant-canary-77Qx+/vÖ\"9-canary-key"
#: To be found, so that the search is seen to search.
CONTROL = "control-2f6b1d"
#: Looks at everything a program inside can read; the needles come backwards, so that it does not find itself.
SEARCH = r"""
import json, os
control, *backwards = json.load(open("/workspace/group/needles.json"))
needles = {"control": control.encode()}
needles |= {f"key {number}": text[::-1].encode("latin-1") for number, text in enumerate(backwards)}
hits = {}
def look(name, data):
    if found := [needle for needle, value in needles.items() if value in data]:
        hits[name] = found
def whole(path):
    try:
        with open(path, "rb") as file:
            look(path, file.read(4 << 20))
    except OSError:
        pass
others = [pid for pid in os.listdir("/proc") if pid.isdigit() and int(pid) != os.getpid()]
for pid in others:
    for name in ("environ", "cmdline", "status", "mountinfo"):
        whole(f"/proc/{pid}/{name}")
    try:
        with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
            for line in maps:
                at, mode = line.split()[:2]
                if mode.startswith("rw"):
                    begin, end = (int(part, 16) for part in at.split("-"))
                    if end - begin < 64 << 20:
                        memory.seek(begin); look(f"memory of {pid} at {at}", memory.read(end - begin))
    except OSError:
        pass
look("environment", json.dumps(dict(os.environ)).encode())
for top in ("/workspace", "/tmp", "/run", "/etc", "/dev/shm", "/opt/microclaw/lib", "/var/tmp"):
    for folder, _, names in os.walk(top):
        for name in names:
            if os.path.isfile(os.path.join(folder, name)):
                whole(os.path.join(folder, name))
print(json.dumps(hits))
"""


def server(asked: Asked) -> Reply:
    """By the prompt's word."""
    encoded = base64.b64encode(b"x" + KEY.encode()).decode()
    given_back = f"you are {KEY}, {encoded}, {KEY.encode().hex()}"
    if asked.results:
        return Reply(text=f"found: {asked.results[-1]}")
    if "search" in asked.prompt:
        return Reply(calls=[("bash", {"command": "python3 /workspace/group/search.py || echo failed"})])
    if "refuse" in asked.prompt:
        return Reply(status=400, text=given_back)
    if "whole event" in asked.prompt:
        event = {"type": "error", "error": {"type": "api_error", "message": given_back}}
        return Reply(garbage=f"event: error\ndata: {json.dumps(event)}\n\n")
    if "garbage" in asked.prompt:
        return Reply(garbage=f"<html>{given_back}</html>", status=500)
    return Reply(text="fine")


@pytest.mark.timeout(400)
@pytest.mark.parametrize("backend", ["anthropic", "openai"])
async def test_ac48_iso02_the_models_key_is_nowhere_a_sandbox_a_log_or_a_database_shows_it(backend: str) -> None:
    pytest.importorskip(backend, reason="the agent extra is not installed")
    async with FakeLLM(server, key=KEY).serve() as model, Desk.opened(
        model=backend, more=f'name = "m"\nkey = "llm"\nbase_url = "{model.url}"\n',
    ) as desk:
        cli = await desk.made.connect("cli")
        await ask(cli, "egress", SetSecret(name="llm", value=KEY), SecretAnswer)
        home = desk.made.home
        await desk.run("hello")
        needles = [form.decode("latin-1") for form in forms(KEY)]
        folder = home.groups / "fam"
        (folder / "needles.json").write_text(json.dumps([CONTROL, *(needle[::-1] for needle in needles)]))
        (folder / "search.py").write_text(SEARCH)
        for word in ("refuse", "whole event", "garbage"):
            end = await desk.run(word)
            assert not end.ok and end.error, end
        hits = json.loads((await desk.answer(await desk.grant(f"search {CONTROL}"))).removeprefix("found: "))
        assert hits.pop("/workspace/group/needles.json") == ["control"], "it finds what is in files"
        assert any(name.startswith("memory of") for name in hits), "and in the agent's memory"
        assert all(found == ["control"] for found in hits.values()), hits
        assert model.requests and all(KEY in " ".join(asked.headers.values()) for asked in model.requests)

        # A crash of the one process that has it leaves nothing either.
        for number in (signal.SIGABRT, signal.SIGSEGV):
            desk.made.kill("egress", number)
            desk.made.start("egress")
            # A busy machine may take longer to start it than an agent tries to reach its model.
            await ask(cli, "egress", SecretsAsked(), Secrets)
            assert (await desk.run("hello again")).ok

            # A call is written down before its answer has gone out: no crash after a run hides one of its calls.
            told = await ask(cli, "egress", AuditAsked(tail=True, limit=500), AuditEntries)
            assert sum(entry.action == "model.call" for entry in told.entries) == len(model.requests)

        assert any("masked" in entry.detail for entry in told.entries)
        spoken = repr((told, desk.replies, desk.ends)).encode()
        assert not [form for form in forms(KEY) if form in spoken]
        assert leaks(home.state, Path.cwd()) == [home.secrets / "llm"]


def leaks(root: Path, cwd: Path) -> list[Path]:
    """Files that hold a form of the key, core files in the working directory too."""
    files = [path for path in root.rglob("*") if path.is_file() and path.name != "needles.json"]
    files += [path for path in cwd.glob("core*") if path.is_file()]
    return [path for path in files if any(form in path.read_bytes() for form in forms(KEY))]
