from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from microclaw.cli.__main__ import main
from microclaw.cli.commands import COMMANDS
from microclaw.cli.context import Context, duration
from microclaw.cli.cron import milliseconds
from microclaw.cli.terminal import columns, one_line, padded, printable
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
        (["config", "get", "queue"], 2, "queue is a table; its keys: queue.max_concurrent"),
        (["config", "get", "zzzzzz"], 2, "zzzzzz is not a known key; `microclaw config show` lists all"),
        (["users", "add", " ", "email:a@b.c"], 2, "a user needs a name"),
        (["status", "router"], 2, "router is not understood; see `microclaw status --help`"),
        (["bus", "replay", "console:main", "--after", "-5"], 2, "'-5' is not a whole number, 0 or more"),
        (["bus", "replay", "s", "--after", "9" * 30], 2, "is not a whole number"),
        (["message", "search", "x", "--limit", "0"], 2, "'0' is not a whole number, 1 to "),
        (["usage", "--days", "99999999999"], 2, "is not a whole number, 1 to 3660"),
        (["budget", "set", "--tokens", "9" * 30], 2, "is not a whole number"),
        (["memory", "allow", "9" * 30], 2, "is not a whole number"),
        (["agent", "-m", "x", "--timeout", "nan"], 2, "'nan' is not a number of seconds, more than 0"),
        (["up", "-d", "--timeout", "-1"], 2, "'-1' is not a number of seconds"),
        (["prove", "--rounds", "0"], 2, "'0' is not a whole number, 1 to "),
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


def test_stopping_what_does_not_run_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["down", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"stopped": False}


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


@pytest.mark.parametrize(
    "arguments", [["--profile", "work", "config", "path"], ["config", "path", "--profile=work"],
                  ["config", "--profile", "work", "path"]],
)
def test_profile_and_config_may_stand_anywhere(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/s")
    assert main(arguments) == 0
    assert capsys.readouterr().out == "/s/microclaw-work/config.toml\n"


def test_a_file_that_can_not_be_used_is_one_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home.mkdir()
    (home / "logs").symlink_to("logs")  # for ever
    assert main(["logs", "router"]) in (1, 2)
    assert main(["up", "-d"]) in (1, 5)
    error = capsys.readouterr().err
    assert str(home / "logs") in error and error.count("\n") == 2, error


def command(*arguments: str, **streams: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "microclaw.cli", *arguments], text=True, check=False, timeout=60, **streams,  # type: ignore[call-overload]
    )


def test_a_full_disk_behind_the_output_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        ended = command("config", "show", stdout=full, stderr=subprocess.PIPE)
    assert ended.returncode == 1
    assert ended.stderr.startswith("microclaw: No space left on device") and ended.stderr.count("\n") == 1


def test_what_is_not_utf8_is_refused_or_marked_without_a_trace(home: Path) -> None:
    home.mkdir()
    (home / "config.toml").write_bytes(b"\x00\xff")
    (home / "config.toml").chmod(0o600)
    ended = command("config", "set", "model.name", "x", capture_output=True)
    assert ended.returncode == 2 and "is not UTF-8 text (byte 1)" in ended.stderr
    (home / "config.toml").unlink()
    ended = command("config", "set", "model.name", os.fsdecode(b"a\xff"), capture_output=True)
    assert (ended.returncode, ended.stderr) == (2, "microclaw: what was given is not UTF-8 text: write it in UTF-8\n")


def test_closed_standard_streams_are_no_error() -> None:
    shell = f"exec {sys.executable} -P -m microclaw.cli config get queue.max_concurrent <&- >&- 2>&-"
    assert subprocess.run(["/bin/sh", "-c", shell], check=False, timeout=60).returncode == 0


def test_what_the_terminals_encoding_lacks_is_written_as_an_escape(home: Path) -> None:
    home.mkdir()
    (home / "config.toml").write_text('[assistant]\nname = "Zo\u00eb"\n', encoding="utf-8")
    (home / "config.toml").chmod(0o600)
    ended = command(
        "config", "get", "assistant.name", capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"}
    )
    assert (ended.returncode, ended.stdout) == (0, "Zo\\xeb\n")


def test_columns_stand_below_each_other_whatever_is_in_them(capsys: pytest.CaptureFixture[str]) -> None:
    Context(colour=False).table(("NAME", "N"), [("\u6f22\u5b57", "1"), ("e\u0301", "2"), ("a\nb\x1b[2J", "3")])
    lines = capsys.readouterr().out.splitlines()
    assert [columns(line) for line in lines] == [10, 10, 10, 10]
    assert lines[1:] == ["\u6f22\u5b57     1", "e\u0301        2", "a b\ufffd[2J  3"]
    assert one_line("a\r\n\tb") == "a  b"
    assert padded("\u6f22", 3) == "\u6f22 "


def test_the_completion_knows_every_action_of_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    typed = 'COMP_WORDS=(microclaw bus dl); COMP_CWORD=2; _microclaw; echo "${COMPREPLY[*]}"'
    ended = subprocess.run(["bash", "-c", f"{script}\n{typed}"], text=True, capture_output=True, check=True)
    assert ended.stdout == "dlq\n"


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


@pytest.mark.parametrize("text", ["9999999d", "", "5", "-5s", "0s", "soon", "5 weeks"])
def test_what_is_not_a_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        milliseconds(text)


def test_an_agents_words_can_not_command_the_terminal() -> None:
    assert printable("a\x1b]52;c;eA==\x07b\r\nc\x9b2J\u202ed") == "a�]52;c;eA==�b\nc�2J�d"
    assert printable("ümlaut\t🎉\n👩\u200d🚀") == "ümlaut\t🎉\n👩\u200d🚀"
