"""Having the agent image on an engine with Docker's API: pulled or built, its base made where no registry is reached.

Blocking: called in a thread.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from microclaw.sandbox.backend import EngineMissing
from microclaw.sandbox.image_content import (
    OFFICIAL_BASE,
    OWN_IMAGE,
    OWN_SITE,
    PYTHON,
    Stage,
    base_hash,
    fits,
    folder,
    stages,
)

if TYPE_CHECKING:
    from docker import APIClient

#: Made by base.sh where no registry can be reached.
OWN_BASE = "microclaw-base"
#: The Python that it has.
OWN_BASE_PYTHON = "3.11"
#: On every image that is built here, and on it whose it is (an installation's id). Not the label of containers, who
#: inherit their image's.
LABEL = "microclaw.image"
BUILDER_LABEL = "microclaw.image.builder"
#: How long the making of a base may take.
BASE_WAIT_S = 600

Say = Callable[[str], None]


def tag(name: str, engine_arch: str) -> str:
    """The image to run: `name` with its content's hash where we build it, else as it is."""
    return stages(engine_arch)[-1].tag if name == OWN_IMAGE else name


def exists(client: APIClient, wanted: str) -> bool:
    """The engine has this image."""
    from docker.errors import ImageNotFound

    try:
        client.inspect_image(wanted)  # type: ignore[no-untyped-call]
    except ImageNotFound:
        return False
    return True


def ensure(client: APIClient, name: str, engine_arch: str, say: Say, builder: str = "") -> str:
    """Build or pull the image if it is missing. Returns its tag. Takes up to minutes.

    :param builder: the installation that it is built for. A new one takes the place of those that were built for it
        before; "" = nobody: they stay.
    :raises EngineMissing: it can't be had; what to do.
    """
    from docker.errors import APIError, BuildError

    try:
        if name != OWN_IMAGE:
            if not exists(client, name):
                say(f"pulling image {name}")
                _pull(client, name)
            return name
        site, agent = stages(engine_arch)
        if not exists(client, agent.tag):
            if not exists(client, site.tag):
                _build(client, site, _base(client, say), engine_arch, say, builder)
            _build(client, agent, site.tag, engine_arch, say, builder)
            if builder:
                _remove_old(client, builder, (agent.tag, site.tag), say)
    except (APIError, BuildError) as error:
        raise EngineMissing(f"image {name} can't be made: {one_line(error)}; see the lines above it") from error
    return agent.tag


def short(name: str) -> str:
    """An image's name without what Podman puts before one that has no registry."""
    return name.removeprefix("docker.io/library/").removeprefix("localhost/")


def one_line(error: Exception) -> str:
    """What an engine said, for a message."""
    # Docker's client puts the address that it asked before the engine's own words.
    said = getattr(error, "explanation", None) or str(error)
    return " ".join(str(said).split())[:300]


def _build(client: APIClient, stage: Stage, base: str, engine_arch: str, say: Say, builder: str) -> None:
    from docker.errors import BuildError

    say(f"building image {stage.tag} on {base}")
    with stage.context() as file:
        steps = client.build(
            fileobj=file, custom_context=True, tag=stage.tag, rm=True, forcerm=True, decode=True,
            buildargs={"BASE": base}, labels={LABEL: "agent", **({BUILDER_LABEL: builder} if builder else {})},
            # Nothing is fetched where the packages are our own.
            network_mode="none" if fits(engine_arch) else None,
        )  # fmt: skip
        for step in steps:
            if line := str(step.get("stream", "")).strip():
                say(line)
            if problem := step.get("error"):
                raise BuildError(str(problem), iter(()))


def _remove_old(client: APIClient, builder: str, keep: Collection[str], say: Say) -> None:
    """Remove what was built for this installation before and no container uses."""
    from docker.errors import APIError

    found = [
        image for image in client.images(filters={"label": LABEL})
        if (image["Labels"] or {}).get(BUILDER_LABEL) == builder
    ]
    # What stands on another one goes first. A tag that somebody else has given one of ours is not ours.
    for repository in (OWN_IMAGE, OWN_SITE):
        for name in [name for image in found for name in image["RepoTags"] or ()]:
            plain = short(name)
            if not plain.startswith(f"{repository}:") or plain in keep:
                continue
            try:
                client.remove_image(name)
                say(f"removed old image {plain}")
            except APIError as error:
                # A container has it, or it is gone: the next new image looks again.
                say(f"old image {plain} stays: {one_line(error)}")


def _pull(client: APIClient, name: str) -> None:
    """:raises APIError: it can't be had. :raises EngineMissing: the same, by an engine that says so in passing."""
    said = str(client.pull(name))
    if not exists(client, name):
        raise EngineMissing(f"image {name} can't be pulled: {(said.strip().splitlines() or ['no word'])[-1][:300]}")


def _base(client: APIClient, say: Say) -> str:
    """A base image that has our Python, made or pulled if there is none."""
    from docker.errors import APIError

    own_tag = f"{PYTHON}-{base_hash()}"
    own = f"{OWN_BASE}:{own_tag}"
    for name in (own, OFFICIAL_BASE):
        if exists(client, name):
            return name
    try:
        say(f"pulling base image {OFFICIAL_BASE}")
        _pull(client, OFFICIAL_BASE)
        return OFFICIAL_BASE
    except (APIError, EngineMissing) as error:
        why = one_line(error)
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb") and PYTHON == OWN_BASE_PYTHON):
        raise EngineMissing(f"image {OFFICIAL_BASE} can't be pulled: {why}; connect to the registry and try again")
    say(f"no registry ({why}); making {own} from Debian packages")
    with tempfile.TemporaryDirectory(prefix="microclaw-base-") as work:
        root, archive = Path(work, "root"), Path(work, "root.tar")
        _run([str(folder() / "base.sh"), str(root)])
        _run(["tar", "--owner=0", "--group=0", "--numeric-owner", "-C", str(root), "-cf", str(archive), "."])
        client.import_image_from_file(str(archive), repository=OWN_BASE, tag=own_tag)
    if not exists(client, own):
        # Podman 4 takes no notice of the tag.
        client.tag(f"{OWN_BASE}:latest", OWN_BASE, own_tag)
    return own


def _run(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=BASE_WAIT_S, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no word"]
        raise EngineMissing(f"{Path(argv[0]).name} failed: {lines[-1]}; run it by hand: {' '.join(argv)}")
