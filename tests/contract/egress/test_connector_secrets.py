"""A connector is told its own secret over the bus, nobody else is, and no journal, log or audit entry holds it."""

from __future__ import annotations

from tests.contract.processes import ask, installation

from microclaw.core.requests import (
    AuditAsked,
    AuditEntries,
    Failed,
    OpenDoor,
    SecretAnswer,
    SecretAsked,
    SecretsAsked,
    SecretValue,
    SetSecret,
)

TOKEN = "123456:canary-AAbbccddeeffgghhii"


async def test_each_connector_gets_the_secret_that_the_configuration_names_and_no_other() -> None:
    async with installation("broker", "egress") as made:
        owner = await made.connect("cli")
        await ask(owner, "egress", SetSecret(name="telegram", value=TOKEN), SecretAnswer)
        await ask(owner, "egress", SetSecret(name="anthropic", value="sk-canary-model-key"), SecretAnswer)
        telegram, discord, imessage = [await made.connect(name) for name in ("telegram", "discord", "imessage")]
        assert await ask(telegram, "egress", SecretAsked(), SecretValue) == SecretValue(value=TOKEN)
        missing = await ask(discord, "egress", SecretAsked(), Failed)
        assert "microclaw secrets set discord" in missing.reason
        assert (await ask(imessage, "egress", SecretAsked(), Failed)).code == "denied"
        for nosy in ("cli", "sandbox"):
            peer = await made.connect(nosy)
            assert (await ask(peer, "egress", SecretAsked(), Failed)).code == "denied"
        rows = (await ask(owner, "egress", AuditAsked(limit=50), AuditEntries)).entries
        uses = [(row.actor, row.subject, row.outcome) for row in rows if row.action == "secret.use"]
        assert uses[:3] == [
            ("telegram", "telegram", "ok"), ("discord", "discord", "deny"), ("imessage", "none", "deny"),
        ]


async def test_a_rotated_secret_is_the_new_one_at_the_next_question() -> None:
    async with installation("broker", "egress") as made:
        owner, telegram = await made.connect("cli"), await made.connect("telegram")
        await ask(owner, "egress", SetSecret(name="telegram", value=TOKEN), SecretAnswer)
        await ask(owner, "egress", SetSecret(name="telegram", value=TOKEN + "2", must_exist=True), SecretAnswer)
        assert (await ask(telegram, "egress", SecretAsked(), SecretValue)).value == TOKEN + "2"


async def test_a_connector_may_ask_egress_for_nothing_else() -> None:
    async with installation("broker", "egress") as made:
        telegram = await made.connect("telegram")
        for question in (OpenDoor(worker_id="w1", group="main"), SecretsAsked(), AuditAsked(limit=1)):
            assert (await ask(telegram, "egress", question, Failed)).code == "denied"


async def test_ac36_neither_journal_nor_log_nor_audit_holds_a_secret_that_was_asked_for() -> None:
    async with installation("broker", "egress") as made:
        owner, telegram = await made.connect("cli"), await made.connect("telegram")
        await ask(owner, "egress", SetSecret(name="telegram", value=TOKEN), SecretAnswer)
        answer = await ask(telegram, "egress", SecretAsked(), SecretValue)
        assert TOKEN not in repr(answer)
        for file in made.root.rglob("*"):
            if file.is_file() and made.home.secrets not in file.parents:
                assert TOKEN.encode() not in file.read_bytes(), file.name
