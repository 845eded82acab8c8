"""A new agent image takes the place of the old ones of the same installation, and of no others."""

from __future__ import annotations

import os

from microclaw.sandbox import image
from microclaw.sandbox.docker_engine import DockerEngine
from microclaw.sandbox.image_content import OWN_IMAGE, OWN_SITE, Stage

DOCKERFILE = b"ARG BASE\nFROM ${BASE}\nCOPY version /version\n"


def small_stages(mark: str, version: int) -> tuple[Stage, Stage]:
    """As the real ones, quick to build."""
    site, agent = [
        Stage(f"{name}:{mark}-{version}", {"Dockerfile": DOCKERFILE, "version": f"{name} {version}".encode()}, [])
        for name in (OWN_SITE, OWN_IMAGE)
    ]
    return site, agent


async def test_a_new_image_takes_the_place_of_old_ones_that_nobody_uses(backend, monkeypatch):
    if not isinstance(backend, DockerEngine):
        # The others build none, or by other means.
        return
    client = await backend.connect()
    mark = f"t{os.getpid()}"
    said: list[str] = []

    def tags() -> set[str]:
        found = {image.short(tag) for each in client.images() for tag in each["RepoTags"] or ()}
        return {tag for tag in found if mark in tag}

    async def build(version: int, builder: str, name: str = mark) -> set[str]:
        made = small_stages(name, version)
        monkeypatch.setattr(image, "stages", lambda _arch: made)
        arch = backend._arch
        wanted = await backend.call(lambda: image.ensure(client, OWN_IMAGE, arch, said.append, builder))
        assert wanted == made[1].tag
        return {stage.tag for stage in made}

    kept = f"kept-by-the-owner:{mark}"
    container = ""
    try:
        theirs = await build(1, f"{mark}-other", f"{mark}-other")
        nobodys = await build(1, "", f"{mark}-nobody")
        first = await build(1, mark)
        client.tag(f"{OWN_IMAGE}:{mark}-1", "kept-by-the-owner", mark)
        assert tags() == theirs | nobodys | first | {kept}
        second = await build(2, mark)
        assert tags() == theirs | nobodys | second | {kept}, "\n".join(said)
        container = client.create_container_from_config(
            {"Image": f"{OWN_IMAGE}:{mark}-2", "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}}, mark
        )["Id"]
        third = await build(3, mark)
        used = {f"{OWN_IMAGE}:{mark}-2"}
        assert tags() - second == theirs | nobodys | third | {kept}, "\n".join(said)
        assert tags() & second >= used, said
        client.remove_container(container, force=True)
        container = ""
        assert await build(3, mark) == third
        assert tags() >= used, "without a new image nothing is looked for"
        fourth = await build(4, mark)
        assert tags() == theirs | nobodys | fourth | {kept}, "\n".join(said)
    finally:
        if container:
            client.remove_container(container, force=True)
        for tag in sorted(tags()):
            client.remove_image(tag)
