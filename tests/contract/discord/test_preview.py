"""An answer that is shown while it is written."""

from __future__ import annotations

import pytest
import pytest_asyncio
from tests.contract.discord.scene import SENT_MS, Scene
from tests.contract.processes import until
from tests.fakes.discord_world import DM, GENERAL

from microclaw.bus.api import Draft
from microclaw.bus.service import now_ms
from microclaw.core.ids import derived_id, id_text, new_id
from microclaw.core.kinds import PresenceChanged

pytestmark = pytest.mark.asyncio(loop_scope="module")


def run(number: int) -> str:
    """A run's id; later runs have greater ones."""
    return id_text(derived_id(SENT_MS + number, "run"))


def writes(run_id: str, text: str, chat: int = GENERAL) -> Draft:
    now, address = now_ms(), f"discord:{chat}"
    sign = PresenceChanged(chat=address, state="composing", run_id=run_id, expires_ms=now + 60_000, draft=text)
    return Draft(address, sign, message_id=new_id(now), ts_ms=now, expires_ms=now + 60_000)


def stands(scene: Scene, chat: int = GENERAL) -> list[str]:
    return [message["content"] for message in scene.server.messages[chat]]


async def is_shown(scene: Scene, text: str, chat: int = GENERAL) -> None:
    await until(lambda: text in stands(scene, chat))


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def listening(shared: Scene) -> None:
    """Presence is heard from the connector's start on, so the first words must not be said before it."""
    async def shows_typing() -> bool:
        await shared.owner.publish(writes(run(0), "", DM))
        return bool(shared.server.rest.typing)

    await until(shows_typing)


async def test_pain27_one_message_grows_and_becomes_the_answer_and_nothing_stands_twice(scene: Scene) -> None:
    await scene.owner.publish(writes(run(1), "so far"))
    await is_shown(scene, "so far")
    await scene.owner.publish(writes(run(1), "__so__ far @everyone"))
    await is_shown(scene, "**so** far @everyone")
    # The answer's own change is taken, and the word of it is lost.
    scene.server.rest.fails_after.add("so good")
    assert (await scene.says(GENERAL, "so good", run_id=run(1))).status == "sent"
    assert stands(scene) == ["so good"]
    # What comes late changes nothing.
    await scene.owner.publish(writes(run(1), "late"), writes(run(2), "next"))
    await is_shown(scene, "next")
    assert stands(scene) == ["so good", "next"]
    await scene.says(GENERAL, "next answer", run_id=run(2))
    assert stands(scene) == ["so good", "next answer"]
    # The journal has the answers, not what led to them (our own change may be told a little late).
    scene.server.says(GENERAL, "thanks")
    heard = [each.text for each in await scene.heard(1, own=True)]
    while heard[-1] != "thanks":
        heard += [each.text for each in await scene.heard(1, own=True)]
    assert "…" not in heard and "so far" not in heard and {"so good", "next answer"} <= set(heard)


async def test_a_long_answer_goes_on_in_messages_of_its_own(scene: Scene) -> None:
    text = "\n\n".join(f"{number} " + "word " * 60 for number in range(12))
    await scene.owner.publish(writes(run(3), text))
    await until(lambda: stands(scene, GENERAL)[-1].startswith("0 word"))
    assert (await scene.says(GENERAL, text, run_id=run(3))).status == "sent"
    said = [each for each in stands(scene) if "word" in each]
    assert len(said) == 2 and "".join("".join(said).split()) == "".join(text.split())


async def test_a_preview_that_somebody_deleted_is_an_answer_of_its_own_in_the_end(scene: Scene) -> None:
    await scene.owner.publish(writes(run(4), "hm"))
    await is_shown(scene, "hm")
    scene.server.messages[GENERAL].pop()
    assert (await scene.says(GENERAL, "here you are", run_id=run(4))).status == "sent"
    assert stands(scene)[-1] == "here you are"


async def test_pain02_a_connector_killed_while_it_shows_leaves_one_message_the_answer(scene: Scene) -> None:
    await scene.owner.publish(writes(run(5), "on the way"))
    await is_shown(scene, "on the way")
    await scene.killed()
    assert (await scene.says(GENERAL, "arrived", run_id=run(5))).status == "sent"
    assert stands(scene)[-1] == "arrived" and "on the way" not in stands(scene)
