"""The copy has the owner's settings and nothing of the owner's data."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from microclaw.core.home import home_from
from microclaw.core.settings import Settings, load, parse
from microclaw.prove import clock, throw_away

OWNER = '''
[assistant]
name = "Zoë \\"the\\" $${X} bot"
timezone = "Europe/Berlin"
prefix = true
[model]
backend = "openai"
base_url = "https://example.org/v1"
key = "openai"
name = "some-model"
[queue]
max_concurrent = 3
[egress]
allow = ["example.org"]
[bus.rights."my bot"]
publish = ["message.received"]
sessions = ["my:"]
'''


@pytest.fixture
def copy(tmp_path: Path):
    settings = parse(OWNER, {})
    env, home = throw_away.make(settings, {"PATH": os.environ["PATH"], "MICROCLAW_HOME": str(tmp_path), "HOME": "/x"})
    yield settings, env, home
    shutil.rmtree(home.state)


def test_the_copy_keeps_the_owners_settings_but_runs_a_script_without_a_way_out(copy) -> None:
    owner, env, home = copy
    settings = load(home.config, env)
    assert settings == throw_away.derived(owner)
    assert settings.model.backend == "scripted"
    assert settings.model.key == ""
    assert settings.sandbox.backend == "bubblewrap"
    assert settings.egress.allow == ()
    assert settings.queue.max_concurrent == 3
    assert settings.assistant.name == owner.assistant.name
    assert settings.bus == owner.bus


def test_the_copy_is_somewhere_else(copy, tmp_path: Path) -> None:
    _, env, home = copy
    assert home_from(env) == home
    assert tmp_path not in home.state.parents
    assert home.state != tmp_path
    assert not list(tmp_path.iterdir())


def test_an_empty_configuration_is_copied_too() -> None:
    env, home = throw_away.make(Settings(), {"PATH": os.environ["PATH"]})
    try:
        assert load(home.config, env) == throw_away.derived(Settings())
    finally:
        shutil.rmtree(home.state)


def test_every_process_of_the_copy_sees_its_clock_set(copy) -> None:
    _, env, home = copy
    clock.set_to(throw_away.folder_of(home) / "clock", 3_600_000)
    program = "import time; print(time.time() - time.clock_gettime(time.CLOCK_REALTIME), time.time_ns())"
    said = subprocess.run([sys.executable, "-P", "-c", program], env=env, capture_output=True, text=True, check=True)
    assert 3599 < float(said.stdout.split()[0]) < 3601


def test_a_process_whose_harm_cannot_be_set_up_does_not_start(copy) -> None:
    _, env, home = copy
    (throw_away.folder_of(home) / "clock").unlink()
    done = subprocess.run([sys.executable, "-P", "-c", "print('started')"], env=env, capture_output=True, text=True)
    assert done.returncode == 70
    assert "started" not in done.stdout
