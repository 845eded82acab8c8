"""Files that come with messages are there for the agent; files of its folder are sent, and no other."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from tests.contract.house import House, house

from microclaw.core.kinds import Attachment, MessageReceived, PromptMessage
from microclaw.core.prompt import ATTACHMENTS_FOLDER, attachment_name, format_messages
from microclaw.sandbox import attachments
from microclaw.sandbox.attachments import put_into

OK: list[tuple[str, Any]] = [("done", {"text": "ok"})]


async def send(made: House, args: dict[str, Any], *, is_main: bool = False) -> str:
    group, chat = ("main", "console:main") if is_main else ("fam", "wa:fam")
    return (await made.call(group, chat, is_main, "send_file", args)).text


def folder_of(made: House, group: str = "fam") -> Path:
    folder = made.home.groups / group
    folder.mkdir(parents=True, exist_ok=True)
    return folder


async def test_a_file_of_the_groups_folder_is_sent_with_a_line() -> None:
    async with house() as made:
        (folder_of(made) / "out").mkdir()
        (made.home.groups / "fam" / "out" / "trip.csv").write_text("a,b\n")
        for path in ("out/trip.csv", "/workspace/group/out/trip.csv"):
            assert await send(made, {"path": path, "text": "the plan <internal>hm</internal>"}) == "Message sent."
        reply, again = made.replies()
        assert again.attachments == reply.attachments
        assert (reply.chat, reply.text, reply.origin) == ("wa:fam", "the plan", "message")
        (file,) = reply.attachments
        assert (file.name, file.mime, file.size_bytes) == ("trip.csv", "text/csv", 4)
        assert made.bus.blobs[file.handle] == b"a,b\n"
        assert any(entry.action == "tool.send_file" and entry.outcome == "ok" for entry in made.audits())


@pytest.mark.parametrize("path", [
    "../main/secret", "/etc/passwd", "/workspace/session/group.jsonl", "link", "folder-link/secret", "pipe", "folder",
    "missing", "empty", "out/../../main/secret", "a\0b", "/workspace/group/../main/secret",
])
async def test_ac39_nothing_but_a_regular_file_of_its_own_folder_leaves(path: str) -> None:
    async with house() as made:
        folder, main = folder_of(made), folder_of(made, "main")
        (main / "secret").write_text("s")
        (folder / "link").symlink_to(main / "secret")
        (folder / "folder-link").symlink_to(main)
        (folder / "folder").mkdir()
        (folder / "empty").touch()
        os.mkfifo(folder / "pipe")
        assert (await send(made, {"path": path})).startswith("error:")
        assert made.replies() == [] and made.bus.blobs == {}


@pytest.mark.parametrize("args", [
    {"mediaUrl": "file:///etc/passwd"}, {"path": "file:///etc/passwd"}, {"path": "FILE:/etc/passwd"},
    {"file": "/etc/passwd", "fileUrl": "/etc/passwd"}, {"path": ["a.txt", "/etc/passwd"]},
    {"path": {"path": "/etc/passwd"}}, {"path": "~/.ssh/id_ed25519"}, {"path": "$HOME/x"},
])
async def test_ac40_no_other_name_or_form_of_a_path_gets_round_the_check(args: dict[str, object]) -> None:
    async with house() as made:
        (folder_of(made) / "a.txt").write_text("a")
        assert (await send(made, args)).startswith("error:")
        assert made.bus.blobs == {}
        await send(made, {"path": "a.txt", "mediaUrl": "/etc/passwd", "media": "/etc/passwd"})
        assert list(made.bus.blobs.values()) == [b"a"], "what is no argument is not read at all"


async def test_a_file_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attachments, "SENT_BYTES_MAX", 10)
    async with house() as made:
        (folder_of(made) / "big").write_bytes(b"x" * 11)
        assert "more than" in await send(made, {"path": "big"})


async def test_only_main_sends_elsewhere_and_a_first_contact_needs_the_owners_yes() -> None:
    async with house() as made:
        made.router.registry.ensure_main("console:main")
        await made.register("wa:quiet", "quiet")
        for group in ("fam", "main"):
            (folder_of(made, group) / "a.txt").write_text("a")
        assert (await send(made, {"path": "a.txt", "chat": "wa:quiet"})).startswith("error: send_file:")
        assert "ever wrote in wa:quiet" in await send(made, {"path": "a.txt", "chat": "wa:quiet"}, is_main=True)
        assert ["a.txt" in action.detail for action in made.bus.asked] == [True]
        assert made.replies() == []


async def test_what_came_with_a_message_is_where_the_prompt_says() -> None:
    async with house([OK]) as made:
        await made.register("wa:fam", "fam", requires_trigger=False)
        handle = await made.bus.put_blob(b"%PDF-1.4")
        gone = Attachment(handle="sha256:00", name="gone.txt", mime="text/plain", size_bytes=1)
        file = Attachment(handle=handle, name="../../bill (1).pdf", mime="application/pdf", size_bytes=8)
        await made.hears(MessageReceived(
            chat="wa:fam", platform_id="1", sender="ann", sender_name="Ann", text="see", sent_ms=1,
            attachments=(file, gone),
        ))
        assert (await made.run_next()).ok
        prompt = made.prompts("fam")[0]["prompt"]
        path = made.home.groups / "fam" / ATTACHMENTS_FOLDER / attachment_name(file)
        assert f'path="{ATTACHMENTS_FOLDER}/{path.name}"' in prompt and path.read_bytes() == b"%PDF-1.4"
        assert path.name.endswith("_bill_(1).pdf") and len(list(path.parent.iterdir())) == 1


async def test_a_link_in_the_place_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    async with house() as made:
        folder = folder_of(made)
        (folder / ATTACHMENTS_FOLDER).symlink_to(tmp_path)
        file = Attachment(handle=await made.bus.put_blob(b"x"), name="x", mime="m", size_bytes=1)
        await put_into(made.bus, folder, [  # type: ignore[arg-type]
            PromptMessage(id="1", sender_name="A", sent_ms=0, text="", attachments=(file,)),
        ])
        assert list(tmp_path.iterdir()) == []


def test_two_files_of_one_name_are_two_and_the_name_is_harmless() -> None:
    one, two = (
        Attachment(handle=f"sha256:{n}", name="a/\u202e\0..\n\"><x>" + "y" * 500, mime="m", size_bytes=1) for n in "12"
    )
    assert attachment_name(one) != attachment_name(two)
    for file in (one, two):
        name = attachment_name(file)
        assert len(name) <= 100 and "/" not in name and name.isprintable() and not name.startswith(".")
        message = PromptMessage(id="1", sender_name="A", sent_ms=0, text="", attachments=(file,))
        assert f'path="{ATTACHMENTS_FOLDER}/{name}"' in format_messages([message])
