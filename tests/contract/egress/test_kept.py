"""What egress keeps on disk: secrets, the audit log, usage."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import sqlite3
import stat

import pytest
from tests.contract.egress.through_door import KEY, gate

from microclaw.core.errors import UnhealthyError, UsageError
from microclaw.core.model_usage import Usage
from microclaw.egress.privacy import hide_in_logs
from microclaw.egress.secret_store import SecretError, SecretStore


def test_secrets_are_private_files_and_survive(home):
    store = SecretStore(home.secrets)
    kept = store.set("llm", KEY)
    assert KEY not in repr(kept) and kept.name == "llm"
    assert stat.S_IMODE((home.secrets / "llm").stat().st_mode) == 0o600
    assert stat.S_IMODE(home.secrets.stat().st_mode) == 0o700
    again = SecretStore(home.secrets)
    assert again.value("llm") == KEY and again.names()[0].fingerprint == kept.fingerprint
    assert again.set("llm", KEY[::-1]).fingerprint != kept.fingerprint
    assert KEY not in again.scrubber.masked_text(f"the old one, {KEY}, stays masked")
    assert again.remove("llm") and not again.remove("llm")
    assert SecretStore(home.secrets).names() == []


@pytest.mark.parametrize(("name", "value"), [
    ("../x", KEY), ("", KEY), (".salt", KEY), ("a b", KEY), ("ok", "short"), ("ok", "two\nlines and more"),
    ("ok", " space around "), ("ok", "x" * 5000),
])
def test_secrets_that_cannot_be_kept_are_refused_without_telling_them(home, name, value):
    with pytest.raises(SecretError) as error:
        SecretStore(home.secrets).set(name, value)
    assert value not in str(error.value)


def test_rotating_needs_something_to_rotate(home):
    with pytest.raises(SecretError, match="microclaw secrets set llm"):
        SecretStore(home.secrets).set("llm", KEY, must_exist=True)


@pytest.mark.parametrize("open_up", ["folder", "file", "link"])
def test_secrets_that_others_can_read_are_refused_at_start(home, tmp_path, open_up):
    SecretStore(home.secrets).set("llm", KEY)
    if open_up == "folder":
        home.secrets.chmod(0o750)
    elif open_up == "file":
        (home.secrets / "llm").chmod(0o604)
    else:
        (tmp_path / "elsewhere").write_text(KEY)
        (home.secrets / "linked").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnhealthyError, match="must be yours alone"):
        SecretStore(home.secrets)
    home.secrets.chmod(0o700)


def test_ac67_logs_hide_every_known_value(home):
    store = SecretStore(home.secrets)
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    root = logging.getLogger()
    root.addHandler(handler)
    before = [(item, item.formatter) for item in root.handlers]
    try:
        hide_in_logs(lambda text: store.scrubber.masked_text(text))
        store.set("llm", KEY)
        try:
            raise RuntimeError(f"with {KEY}")
        except RuntimeError:
            logging.getLogger("microclaw.egress").exception("it failed with %s", KEY)
    finally:
        root.removeHandler(handler)
        for item, formatter in before:
            item.setFormatter(formatter)
    assert "[REDACTED]" in stream.getvalue() and KEY not in stream.getvalue()


async def test_ac69_each_way_to_falsify_the_audit_log_is_found(home):
    async with gate(home, backend="local") as egress:
        for number in range(6):
            await egress.audit.record("cli", "test.deed", f"thing {number}", "ok")
    path = home.database("egress")
    good = path.read_bytes()

    async def faults(*statements: str) -> list[str]:
        for extra in ("-wal", "-shm"):
            path.with_name(path.name + extra).unlink(missing_ok=True)
        path.write_bytes(good)
        with sqlite3.connect(path) as db:
            for statement in statements:
                db.execute(statement)
        db.close()
        async with gate(home, backend="local") as egress:
            return [fault.what for fault in (await egress.audit.verify())[1]]

    head = (home.data / "audit.head").read_text()
    assert await faults() == []
    assert await faults("UPDATE egress_audit SET outcome = 'deny' WHERE number = 3") == ["edited"]
    assert await faults("DELETE FROM egress_audit WHERE number = 3") == ["missing"]
    assert await faults(
        "UPDATE egress_audit SET number = -1 WHERE number = 3",
        "UPDATE egress_audit SET number = 3 WHERE number = 4",
        "UPDATE egress_audit SET number = 4 WHERE number = -1",
    ) != []
    assert await faults("DELETE FROM egress_audit WHERE number > 4") == ["truncated"]
    assert await faults("DELETE FROM egress_audit") == ["truncated"]
    assert (home.data / "audit.head").read_text() == head, "a cut log does not move the head back"


async def test_ac69_a_cut_stays_visible_when_the_log_goes_on(home):
    async with gate(home, backend="local") as egress:
        for number in range(5):
            await egress.audit.record("cli", "test.deed", str(number), "ok")
    with sqlite3.connect(home.database("egress")) as db:
        db.execute("DELETE FROM egress_audit WHERE number > 3")
    db.close()
    async with gate(home, backend="local") as egress:
        assert "2 entries after number 3 are gone" in egress.audit.trouble
        await egress.audit.record("cli", "test.deed", "after", "ok")
        assert [fault.what for fault in (await egress.audit.verify())[1]] == ["missing"]


async def test_a_kill_between_the_commit_and_the_head_file_is_no_fault(home):
    async with gate(home, backend="local") as egress:
        await egress.audit.record("cli", "test.deed", "1", "ok")
        before = (home.data / "audit.head").read_text()
        await egress.audit.record("cli", "test.deed", "2", "ok")
    (home.data / "audit.head").write_text(before)
    async with gate(home, backend="local") as egress:
        assert egress.audit.trouble == "" and egress.audit.head.number == 2
        assert (await egress.audit.verify())[1] == []


async def test_an_envelope_is_recorded_once_and_secrets_never(home):
    async with gate(home, backend="local") as egress:
        egress.secrets.set("llm", KEY)
        await asyncio.gather(*(
            egress.audit.record("service:x", "test.deed", KEY, "ok", f"x{KEY}", cause=b"c" * 16) for _ in range(3)
        ))
        await egress.audit.record("service:x", "test.deed", "again", "ok", cause=b"c" * 16)
        entries = await egress.audit.tail(10)
        assert len(entries) == 1 and KEY not in repr(entries)
        assert await egress.audit.entries(after=0, limit=1) == entries


async def test_nothing_is_allowed_that_cannot_be_audited(home):
    async with gate(home, backend="local") as egress:
        with sqlite3.connect(home.database("egress")) as db:
            db.execute("DROP TABLE egress_audit")
        db.close()
        with pytest.raises(UnhealthyError, match="can't be written"):
            await egress.audit.record("cli", "test.deed", "1", "ok")


async def test_usage_adds_up_per_day_group_and_model(home):
    async with gate(home, backend="local") as egress:
        spent = Usage("m", input_tokens=10, output_tokens=3, cache_read_tokens=2, cache_write_tokens=1, known=True)
        for group, usage in (("home", spent), ("home", spent), ("work", Usage(model=""))):
            await egress.audit.record("worker", "model.call", "m", "200", also=egress.meter.counting(group, usage))
        home_row, work_row = await egress.meter.rows()
        assert (home_row.calls, home_row.input_tokens, home_row.output_tokens) == (2, 20, 6)
        assert (home_row.cache_read_tokens, home_row.cache_write_tokens, home_row.unknown_calls) == (4, 2, 0)
        assert (work_row.model, work_row.unknown_calls) == ("?", 1)
        assert await egress.meter.rows(since_day="9999-01-01") == []


@pytest.mark.parametrize(("base_url", "allow", "said"), [
    ("http://example.org/v1", (), "unencrypted"), ("ftp://x", (), "not usable"), ("https://u:p@x", (), "not usable"),
    ("", ("*.com",), "top-level"), ("", ("10.0.0.1",), "by name only"), ("", ("a b",), "behind the host only"),
])
async def test_a_configuration_that_would_be_unsafe_does_not_start(home, base_url, allow, said):
    with pytest.raises(UsageError, match=said):
        async with gate(home, base_url=base_url, allow=allow):
            pass
    assert os.listdir(home.run / "egress") == [] if (home.run / "egress").exists() else True
