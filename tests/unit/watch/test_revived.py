from __future__ import annotations

from pathlib import Path

import pytest

from microclaw.bus.supervisor import Supervisor
from microclaw.core.home import Home, home_from
from microclaw.core.revival import Revival, Start
from microclaw.watch.__main__ import carry_out


class Supervisord(Supervisor):
    def __init__(self) -> None:
        super().__init__(Path("/nowhere"))
        self.started: list[str] = []

    def start(self, name: str, *, wait: bool = True) -> bool:
        self.started.append(name)
        return True


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = home_from({"MICROCLAW_HOME": str(tmp_path)})
    made.create()
    return made


@pytest.mark.parametrize(
    ("config", "revived"),
    [
        ("", ["router"]),
        ("[channels.telegram]\nenabled = true\n", ["router", "telegram"]),
        ("[channels.telegram]\nenabled = false\n", ["router"]),
        ("[channels\n", ["router", "telegram"]),
    ],
)
def test_a_dead_connector_that_was_taken_out_of_use_is_not_started_again(
    home: Home, config: str, revived: list[str]
) -> None:
    home.config.write_text(config)
    home.config.chmod(0o600)
    supervisord = Supervisord()
    for service in ("router", "telegram"):
        carry_out(Start(service), home, supervisord, Revival())
    assert supervisord.started == revived
