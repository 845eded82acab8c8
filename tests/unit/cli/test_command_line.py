from __future__ import annotations

import json
from pathlib import Path

import pytest

from microclaw.cli.__main__ import main
from microclaw.cli.commands import COMMANDS
from microclaw.cli.context import duration
from microclaw.cli.conversation import printable
from microclaw.cli.cron import milliseconds
from microclaw.core.errors import UsageError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MICROCLAW_HOME", str(tmp_path / "h"))
    monkeypatch.delenv("MICROCLAW_CONFIG", raising=False)
    return tmp_path / "h"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert COMMANDS[command].help.split("(")[0].strip() in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["statsu"], 2, "there is no command 'statsu'; did you mean status?"),
        (["logs", "--frob"], 2, "--frob"),
        (["status"], 3, "MicroClaw is not running: start it with `microclaw up`"),
        (["restart", "router"], 3, "not running"),
        (["agent", "-m", "x"], 3, "not running"),
        (["groups", "list"], 3, "not running"),
        (["start"], 2, "start which service?"),
        (["--profile", "../x", "version"], 2, "--profile"),
        (["agent", "-m", " "], 2, "there is nothing to say"),
        (["message", "send", "--target", "5", "--message", "x"], 2, "needs --channel"),
    ],
)
def test_errors_are_one_line_with_their_exit_code(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    error = capsys.readouterr().err
    assert error.startswith("microclaw: ")
    assert said in error
    assert error.count("\n") == 1


def test_stopping_what_does_not_run_is_no_error() -> None:
    assert main(["down"]) == 0


def test_a_bad_configuration_stops_up_before_anything_is_made(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home.mkdir()
    (home / "config.toml").write_text("[queue]\nmax_concurent = 1\n")
    (home / "config.toml").chmod(0o600)
    for command in (["up", "-d"], ["chat"], ["config", "check"]):
        assert main(command) == 2
        assert "did you mean max_concurrent?" in capsys.readouterr().err
    assert [path.name for path in home.iterdir()] == ["config.toml"]


def test_flags_may_stand_before_or_after_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["config", "get", "queue.max_concurrent"]
    for arguments in (["--json", *command], [*command, "--json"]):
        assert main(arguments) == 0
        assert json.loads(capsys.readouterr().out) == 5


def test_a_profile_is_an_installation_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/s")
    assert main(["--profile", "work", "config", "path"]) == 0
    assert capsys.readouterr().out == "/s/microclaw-work/config.toml\n"


def test_a_dry_run_sends_nothing_and_needs_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["message", "send", "--channel=telegram", "--target=5", "--message=x", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"chat": "telegram:5", "text": "x", "sent": False}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.9, "59 s"), (60, "1 min"), (185, "3 min 5 s"), (7440, "2 h 4 min"), (86400, "1 d")],
)
def test_lengths_of_time_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("text", "ms"), [("30s", 30_000), ("15m", 900_000), ("1.5 h", 5_400_000), ("1d", 86_400_000)])
def test_lengths_of_time_as_people_write_them(text: str, ms: int) -> None:
    assert milliseconds(text) == ms


@pytest.mark.parametrize("text", ["", "5", "-5s", "0s", "soon", "5 weeks"])
def test_what_is_not_a_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        milliseconds(text)


def test_an_agents_words_can_not_command_the_terminal() -> None:
    assert printable("a\x1b]52;c;eA==\x07b\r\nc\x9b2J\u202ed") == "a�]52;c;eA==�b\nc�2J�d"
    assert printable("ümlaut\t🎉\n👩\u200d🚀") == "ümlaut\t🎉\n👩\u200d🚀"
