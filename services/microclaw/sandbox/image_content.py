"""What goes into the agent image, and what it is called.

Two images, one on the other: what the agent imports, which is large and changes seldom, and the agent, which is small.
Their tags are hashes of what went in, so two installations with different versions don't meet on one engine, and a new
version of ours is built by itself.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import platform
import re
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from microclaw.sandbox import inside
from microclaw.sandbox.backend import EngineMissing

#: The name that means "the image we build".
OWN_IMAGE = "microclaw-agent"
#: What it imports; it stands on this one.
OWN_SITE = "microclaw-site"
#: The version of Python on both sides: compiled packages of one fit the other.
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
#: The base that registries have.
OFFICIAL_BASE = f"python:{PYTHON}-slim"
#: What the agent imports; the second and third only where they are installed.
ROOTS = ("msgspec", "anthropic", "openai")

#: A processor as Python names it → as engines do.
_ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


@dataclass(frozen=True, slots=True)
class Stage:
    """One image of ours; the next stands on it."""

    tag: str
    #: Names in the build context → text.
    texts: Mapping[str, bytes]
    #: Files of this machine, and their names in the build context.
    files: Sequence[tuple[Path, str]]

    def context(self) -> IO[bytes]:
        """The build context as a tar file, at its start. The caller closes it."""
        file = tempfile.TemporaryFile()  # noqa: SIM115
        with tarfile.open(fileobj=file, mode="w") as archive:
            for folder in ("site", "lib"):
                _add_folder(archive, folder)
            for name, text in self.texts.items():
                _add_text(archive, name, text)
            for path, name in self.files:
                _add_file(archive, path, name)
        file.seek(0)
        return file


def folder() -> Path:
    """Where the Dockerfiles and base.sh lie."""
    return Path(__file__).resolve().parents[3] / "deploy" / "image"


def stages(engine_arch: str) -> tuple[Stage, Stage]:
    """What the agent imports, and the agent.

    :raises EngineMissing: the Dockerfiles are not here.
    """
    ours_fit = fits(engine_arch)
    requirements = "" if ours_fit else "".join(f"{d.metadata['Name']}=={d.version}\n" for d in distributions())
    site_texts = {"Dockerfile": _dockerfile("Dockerfile.site"), "requirements.txt": requirements.encode()}
    # RECORD names every file of a package with its hash.
    packages = [(d.read_text("RECORD") or d.version).encode() for d in distributions()] if ours_fit else []
    site = Stage(
        f"{OWN_SITE}:{_hash(PYTHON.encode(), base_hash().encode(), *site_texts.values(), *packages)}",
        site_texts, list(_site_files()) if ours_fit else [],
    )  # fmt: skip
    own_texts, own = {"Dockerfile": _dockerfile("Dockerfile")}, list(_own_files())
    sources = (name.encode() + b"\0" + path.read_bytes() for path, name in own)
    return site, Stage(f"{OWN_IMAGE}:{_hash(site.tag.encode(), *own_texts.values(), *sources)}", own_texts, own)


def base_hash() -> str:
    """What `base.sh` would make, by its text: a base with other programs is another image."""
    return _hash(_dockerfile("base.sh"))


def fits(engine_arch: str) -> bool:
    """This machine's installed packages run in the image as they are."""
    return sys.platform == "linux" and _ARCHITECTURES.get(platform.machine()) == engine_arch


def distributions() -> list[importlib.metadata.Distribution]:
    """The installed packages that the agent imports, with what those need."""
    found: dict[str, importlib.metadata.Distribution] = {}
    pending = list(ROOTS)
    while pending:
        name = re.sub(r"[-_.]+", "-", pending.pop()).lower()
        if name in found:
            continue
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            # An extra that was not asked for, or a need of another platform.
            continue
        for requirement in found[name].requires or ():
            if "extra ==" not in requirement and (match := re.match(r"[A-Za-z0-9._-]+", requirement)):
                pending.append(match.group())
    return [found[name] for name in sorted(found)]


def _dockerfile(name: str) -> bytes:
    try:
        return (folder() / name).read_bytes()
    except OSError as error:
        raise EngineMissing(f"{folder() / name} is missing; use MicroClaw's repository, or bubblewrap") from error


def _hash(*parts: bytes) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _site_files() -> Iterator[tuple[Path, str]]:
    for distribution in distributions():
        for file in distribution.files or ():
            path = Path(str(file.locate()))
            # Programs lie outside; `direct_url.json` names this machine's folders.
            if ".." not in file.parts and file.name != "direct_url.json" and path.is_file():
                yield path, f"site/{file.as_posix()}"


def _own_files() -> Iterator[tuple[Path, str]]:
    for package in inside.PACKAGES:
        root = inside.package_folder(package)
        for path in sorted(root.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path, f"lib/microclaw/{package}/{path.relative_to(root).as_posix()}"


def _add_file(archive: tarfile.TarFile, path: Path, name: str) -> None:
    info = archive.gettarinfo(str(path), name)
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mode = 0o755 if info.mode & 0o100 else 0o644
    with path.open("rb") as file:
        archive.addfile(info, file)


def _add_text(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def _add_folder(archive: tarfile.TarFile, name: str) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, 0o755
    archive.addfile(info)
