"""Where secrets lie: files; the Secret Service, a real one (gnome-keyring on a bus of its own); macOS's keychain, by a
stand-in for its program that takes exactly the calls that we make."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.contract.egress.through_door import KEY

from microclaw.core.errors import UnhealthyError
from microclaw.core.home import Home
from microclaw.egress import secret_keepers
from microclaw.egress.secret_store import SecretStore

#: With a line's and a shell's troubles in it, and no plain ASCII.
HARD = "pass \"word' $(x) \\ `y` é漢 %41"
Open = Callable[[], SecretStore]


@pytest.fixture(scope="module")
def secret_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a bus with an unlocked gnome-keyring."""
    for program in ("dbus-daemon", "gnome-keyring-daemon", "secret-tool"):
        if shutil.which(program) is None:
            if os.environ.get("MC_REQUIRE_ENGINE"):
                pytest.fail(f"{program} is not installed; apt-get install gnome-keyring libsecret-tools dbus-daemon")
            pytest.skip(f"{program} is not installed")
    folder = tmp_path_factory.mktemp("bus")
    bus = subprocess.Popen(
        ["dbus-daemon", "--session", "--nofork", "--nopidfile", "--print-address=1"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )
    assert bus.stdout is not None
    address = bus.stdout.readline().strip()
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "DBUS_SESSION_BUS_ADDRESS": address,
           "XDG_RUNTIME_DIR": str(folder)}
    keyring = subprocess.Popen(
        ["gnome-keyring-daemon", "--foreground", "--unlock", "--components=secrets"], env=env,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )
    assert keyring.stdin is not None and keyring.stdout is not None
    keyring.stdin.write("pass phrase")
    keyring.stdin.close()
    keyring.stdout.readline()  # it says where its sockets are when it is there
    yield address
    for process in (keyring, bus):
        process.kill()
        process.wait(10)


@pytest.fixture(params=["file", "secret-service", "keychain"])
def store(request: pytest.FixtureRequest, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Opens the store, in each kind of vault."""
    if request.param == "secret-service":
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", request.getfixturevalue("secret_service"))
    if request.param == "keychain":
        request.getfixturevalue("security")
    return lambda: SecretStore(home.secrets, str(request.param))


@pytest.fixture
def security(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in is in the search path; the folder in which it keeps."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "security").symlink_to(Path(__file__).parents[2] / "fakes" / "security")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("MC_FAKE_KEYCHAIN", str(tmp_path))
    return tmp_path


def on_disk(home: Home) -> bytes:
    return b"".join(path.read_bytes() for path in home.secrets.iterdir() if not path.name.startswith(".salt"))


def test_secrets_are_kept_replaced_and_forgotten(store: Open, home: Home) -> None:
    first = store()
    first.set("llm", KEY)
    first.set("odd", HARD)
    again = store()
    assert (again.value("llm"), again.value("odd")) == (KEY, HARD)
    assert [kept.name for kept in again.names()] == ["llm", "odd"] and all(k.set_ms > 0 for k in again.names())
    again.set("llm", "a-newer-value-1", must_exist=True)
    assert store().value("llm") == "a-newer-value-1"
    assert again.remove("odd") and not again.remove("odd")
    assert [kept.name for kept in store().names()] == ["llm"] and store().value("odd") is None
    assert store().store == again.store
    if again.store != "file":
        assert b"a-newer-value-1" not in on_disk(home)


def test_auto_finds_them_where_they_are(store: Open, home: Home) -> None:
    store().set("llm", KEY)
    found = SecretStore(home.secrets, "auto", platform="linux")
    assert (found.value("llm"), found.store) == (KEY, store().store)


@pytest.mark.parametrize("store", ["secret-service", "keychain"], indirect=True)
def test_they_move_when_the_configuration_changes_and_back(store: Open, home: Home) -> None:
    files = SecretStore(home.secrets)
    files.set("llm", KEY)
    fingerprint = files.names()[0].fingerprint
    assert store().value("llm") == KEY and KEY.encode() not in on_disk(home)
    assert store().names()[0].fingerprint == fingerprint
    back = SecretStore(home.secrets, "file")
    assert back.value("llm") == KEY and KEY.encode() in on_disk(home)
    assert [path.name for path in home.secrets.iterdir() if path.name != ".salt"] == ["llm"]
    assert [kept.name for kept in store().names()] == ["llm"]


@pytest.mark.parametrize("store", ["secret-service", "keychain"], indirect=True)
def test_a_name_whose_item_is_gone_is_no_secret_and_no_trouble(store: Open, home: Home) -> None:
    store().set("llm", KEY)
    index = (home.secrets / ".index.json").read_text()
    store().remove("llm")
    (home.secrets / ".index.json").write_text(index)
    assert store().names() == []


@pytest.mark.parametrize("store", ["secret-service", "keychain"], indirect=True)
def test_two_installations_of_one_person_do_not_meet(store: Open, home: Home, tmp_path: Path) -> None:
    one = store()
    one.set("llm", KEY)
    other = SecretStore(tmp_path / "other", one.store)
    assert other.value("llm") is None
    other.set("llm", "another-value-1")
    assert store().value("llm") == KEY


def test_a_value_never_is_an_argument_of_the_keychains_program(security: Path, home: Home) -> None:
    kept = SecretStore(home.secrets, "keychain")
    kept.set("llm", KEY)
    kept.remove("llm")
    calls = (security / "argv").read_text().splitlines()
    verbs = {call.split()[0] for call in calls}
    assert verbs == {"-i", "find-generic-password", "delete-generic-password"}
    assert KEY not in "\n".join(calls) and "microclaw-base64" not in "\n".join(calls)


def test_a_locked_keychain_stops_the_start_and_says_what_to_do(security: Path, home: Home) -> None:
    SecretStore(home.secrets, "keychain").set("llm", KEY)
    (security / "locked").touch()
    for setting in ("keychain", "auto"):
        with pytest.raises(UnhealthyError, match=r"not allowed.*unlock it"):
            SecretStore(home.secrets, setting, platform="darwin")


def test_a_value_too_long_for_the_keychain_is_refused_and_the_former_one_stays(security: Path, home: Home) -> None:
    kept = SecretStore(home.secrets, "keychain")
    kept.set("llm", KEY)
    with pytest.raises(UnhealthyError, match="too long"):
        kept.set("llm", "x" * 4000)
    assert kept.value("llm") == KEY and SecretStore(home.secrets, "keychain").value("llm") == KEY


def test_auto_takes_the_keychain_on_a_new_macos_where_it_works_else_files(security: Path, home: Home) -> None:
    (security / "locked").touch()
    assert SecretStore(home.secrets, "auto", platform="darwin").store == "file"
    (security / "locked").unlink()
    fresh = SecretStore(home.secrets, "auto", platform="darwin")
    fresh.set("llm", KEY)
    assert fresh.store == SecretStore(home.secrets, "auto", platform="darwin").store == "keychain"
    assert KEY.encode() not in on_disk(home)


def test_without_the_keepers_program_the_remedy_is_said(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    SecretStore(home.secrets).set("llm", KEY)
    monkeypatch.setenv("PATH", "/nowhere")
    for setting, why in (("secret-service", "libsecret-tools"), ("keychain", 'secrets.store = "file"')):
        with pytest.raises(UnhealthyError, match=why):
            SecretStore(home.secrets, setting)
    for setting in ("file", "auto"):
        assert SecretStore(home.secrets, setting).value("llm") == KEY, "nothing was moved"


def test_a_keeper_that_waits_for_a_person_is_given_up(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = tmp_path / "secret-tool"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(secret_keepers, "ASK_S_MAX", 0.3)
    with pytest.raises(UnhealthyError, match=r"no answer within 0\.3 s: unlock it"):
        SecretStore(home.secrets, "secret-service").set("llm", KEY)
