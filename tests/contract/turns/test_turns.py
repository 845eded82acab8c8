"""A grant becomes a turn in a real sandbox, and the turn's end becomes a reply and the end of the run."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from tests.contract.processes import until
from tests.contract.turns.desk import Desk, children_of

from microclaw.core.kinds import ScheduledTask
from microclaw.core.requests import ServiceStatus, StatusAsked

pytestmark = pytest.mark.usefixtures("bubblewrap")


async def test_a_grant_is_answered_in_its_chat_by_a_warm_worker(desk: Desk) -> None:
    first = await desk.grant("hello")
    end = await desk.end(first)
    assert (end.ok, end.group, end.error, end.result) == (True, "fam", "", "echo: hello")
    assert await desk.said(first, 1) == ["echo: hello"]
    assert (desk.replies[-1].chat, desk.replies[-1].origin) == ("console:fam", "answer")
    second = await desk.grant("again")
    await desk.end(second)
    assert desk.made.log("sandbox").count('"worker started"') == 1


async def test_each_group_sees_its_own_folder_and_never_another(desk: Desk) -> None:
    assert (await desk.run("#!bash echo mine > note.txt")).ok
    assert (desk.made.home.groups / "fam" / "note.txt").read_text() == "mine\n"
    run = await desk.grant("#!bash ls -A; ls /workspace", group="other")
    await desk.end(run)
    assert (await desk.said(run, 1)) == ["group\nsession"]


async def test_main_reads_the_project_without_what_is_private(desk: Desk) -> None:
    look = "#!bash ls -A /workspace/project; touch /workspace/project/libs/x 2>&1"
    run = await desk.grant(look, group="main", is_main=True)
    await desk.end(run)
    (said,) = await desk.said(run, 1)
    assert {"libs", "services", "README.md"} & set(said.split()) and "Read-only" in said
    assert not {".env", ".git", ".venv"} & set(said.split())


async def test_internal_notes_are_not_said_and_nothing_is_a_good_end(desk: Desk) -> None:
    run = await desk.grant("#!say <internal>secret plan</internal> hi")
    await desk.end(run)
    assert await desk.said(run, 1) == ["hi"]
    quiet = await desk.grant("#!say <internal>only this</internal>")
    assert (await desk.end(quiet)).ok
    last = await desk.grant("after")
    await desk.said(last, 1)
    assert desk.of(quiet) == []


async def test_a_worker_that_dies_once_goes_on_where_it_was(desk: Desk) -> None:
    run = await desk.grant("#!bash echo once >> log.txt\n#!crash\n#!bash cat log.txt\n#!say done")
    end = await desk.end(run)
    assert end.ok
    (said,) = await desk.said(run, 1)
    assert said.splitlines()[-2:] == ["once", "done"]
    assert (desk.made.home.groups / "fam" / "log.txt").read_text() == "once\n"


async def test_a_worker_that_always_dies_is_a_failed_run_to_be_tried_again(desk: Desk) -> None:
    end = await desk.run("#!crash always")
    assert (end.ok, end.retryable, end.visible) == (False, True, False)
    assert "exit code 70" in end.error
    assert (await desk.run("hello")).ok, "the next run has a new worker"


async def test_what_was_said_before_a_failure_is_never_said_again(desk: Desk) -> None:
    run = await desk.grant('#!tool send_message {"text": "part"}\n#!crash always')
    end = await desk.end(run)
    assert (end.ok, end.visible) == (False, True)
    assert desk.of(run) == ["part"]


@pytest.mark.parametrize(
    ("code", "retryable", "word"),
    [
        ("bad_key", False, "microclaw secrets set"), ("model_down", True, "can't be reached"),
        ("rate_limited", True, "too often"), ("too_long", False, "too long"), ("budget", False, "used up"),
    ],
)
async def test_a_failure_tells_its_cause_and_whether_to_try_again(
    desk: Desk, code: str, retryable: bool, word: str
) -> None:
    end = await desk.run(f"#!fail {code}")
    assert (end.ok, end.retryable) == (False, retryable)
    assert word in end.error and "\n" not in end.error
    assert (await desk.run("hello")).ok


async def test_a_task_gets_its_header_and_an_isolated_session(desk: Desk) -> None:
    task = ScheduledTask(task_id="t1", prompt="#!say tick", due_ms=1_700_000_000_000, context="isolated")
    run = await desk.grant("", task=task)
    assert (await desk.end(run)).result == "tick"


async def test_an_expired_grant_is_not_begun(desk: Desk) -> None:
    run = await desk.grant("#!bash touch begun", expires_ms=1)
    end = await desk.end(run)
    assert (end.ok, end.retryable, end.error) == (False, True, "the run could not begin in time")
    assert not (desk.made.home.groups / "fam" / "begun").exists()


async def test_groups_run_side_by_side(desk: Desk) -> None:
    groups = [f"g{number}" for number in range(3)]
    wait = "#!bash touch begun; until [ -e go ]; do sleep 0.02; done"
    runs = [await desk.grant(wait, group=group) for group in groups]
    folders = [desk.made.home.groups / group for group in groups]
    await until(lambda: all((folder / "begun").exists() for folder in folders))
    for folder in folders:
        (folder / "go").touch()
    for run in runs:
        assert (await desk.end(run)).ok


async def test_a_memory_bomb_ends_the_run_and_not_the_service(desk: Desk) -> None:
    program = "python3 -c 'x=[bytearray(1<<20) for _ in range(4000)]' 2>&1 | tail -1"
    run = await desk.grant(f"#!bash {program}")
    await desk.end(run)
    assert (await desk.run("hello")).ok


async def test_more_groups_than_workers_take_turns() -> None:
    async with Desk.opened(sandbox="max_workers = 1") as desk:
        runs = [await desk.grant("hello", group=f"g{number}") for number in range(3)]
        for run in runs:
            assert (await desk.end(run)).ok
        status = await desk.made.ready(await desk.made.connect("cli"), "sandbox")
        assert status.facts["workers"] == 1


async def test_an_idle_worker_ends_and_its_door_is_closed() -> None:
    async with Desk.opened(sandbox="idle_timeout_s = 1\nspare_s = 0") as desk:
        assert (await desk.run("hello")).ok
        await until(lambda: '"worker ended"' in desk.made.log("sandbox"))
        await until(lambda: not any((desk.made.home.run / "egress").iterdir()))
        assert (await desk.run("hello")).ok


async def test_no_usable_backend_fails_runs_with_the_remedy_and_shows_it() -> None:
    async with Desk.opened(start=False) as desk:
        text = desk.made.home.config.read_text()
        desk.made.home.config.write_text(text.replace('backend = "bubblewrap"', 'backend = "docker"'))
        desk.made.env["DOCKER_HOST"] = "unix:///nowhere/docker.sock"
        desk.made.start("sandbox")
        end = await desk.run("hello")
        assert (end.ok, end.retryable) == (False, False)
        assert "docker" in end.error.lower()
        status: ServiceStatus = await desk.made.ready(await desk.made.connect("cli"), "sandbox")
        assert any("docker" in trouble.lower() for trouble in status.troubles)


async def test_sigterm_hands_the_turn_back_and_the_next_life_ends_it(desk: Desk) -> None:
    run = await desk.grant('#!bash echo one >> log.txt\n#!quiet send_message {"text": "hi"}\n#!sleep 3\n#!say end')
    await desk.said(run, 1)
    began = time.monotonic()
    assert desk.made.stop("sandbox") == 0
    assert time.monotonic() - began < 5
    assert run not in desk.ends
    desk.made.start("sandbox")
    assert (await desk.end(run)).ok
    texts = await desk.said(run, 2)
    assert [texts[0], texts[1].splitlines()[-1]] == ["hi", "end"]
    assert (desk.made.home.groups / "fam" / "log.txt").read_text() == "one\n"


async def test_an_idle_worker_that_is_killed_is_replaced(desk: Desk) -> None:
    assert (await desk.run("hello")).ok
    os.kill(children_of(desk.made.pid("sandbox"))[0], signal.SIGKILL)
    await until(lambda: '"worker ended"' in desk.made.log("sandbox"))
    assert (await desk.run("hello again")).ok


async def test_ac45_a_spare_does_not_outlive_a_killed_service_and_the_next_life_goes_on(desk: Desk) -> None:
    assert (await desk.run("hello")).ok
    os.kill(children_of(desk.made.pid("sandbox"))[0], signal.SIGKILL)
    await until(lambda: desk.made.log("sandbox").count('"worker started"') == 2)
    spare = children_of(desk.made.pid("sandbox"))
    assert spare
    desk.made.kill("sandbox")
    await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in spare))
    desk.made.start("sandbox")
    assert (await desk.run("hello again")).ok


async def test_no_words_of_people_are_in_the_log(desk: Desk) -> None:
    await desk.run("the-canary-says #!nothing")
    await desk.run('#!tool send_message {"text": "canary-message"}')
    await desk.run("#!fail bad_request")
    log = desk.made.log("sandbox")
    assert "canary" not in log and "run ended" in log


async def test_the_service_answers_status_with_its_workers(desk: Desk) -> None:
    await desk.run("hello")
    bus = await desk.made.connect("cli")
    status = await bus.request("sandbox", StatusAsked(), ServiceStatus)
    assert status.ready and status.facts["backend"] == "bubblewrap"


async def test_a_tasks_check_runs_in_the_sandbox_and_decides(desk: Desk) -> None:
    def task(script: str) -> ScheduledTask:
        return ScheduledTask(task_id="t", prompt="#!say the door is open", due_ms=1, script=script)

    (desk.made.home.groups / "fam").mkdir(exist_ok=True)
    quiet = await desk.end(await desk.grant("", task=task("ls /workspace >&2; echo '{\"wakeAgent\": false}'")))
    assert (quiet.ok, quiet.skipped, quiet.result, quiet.visible) == (True, True, "skipped by check", False)
    woken = await desk.end(await desk.grant("", task=task("echo '{\"wakeAgent\": true}'")))
    assert (woken.ok, woken.skipped, woken.result) == (True, False, "the door is open")
    broken = await desk.end(await desk.grant("", task=task("cat /etc/shadow")))
    assert (broken.ok, broken.retryable) == (False, False)
    assert "the check before the task failed" in broken.error
