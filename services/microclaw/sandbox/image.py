"""The agent image: what goes into it, and which base it stands on.

Its tag is a hash of what went in, so two installations with different versions don't meet on one engine, and a new
version of ours is built by itself.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from microclaw.sandbox import inside
from microclaw.sandbox.backend import EngineMissing

if TYPE_CHECKING:
    from docker import APIClient

#: What the agent imports; the second and third only where they are installed.
ROOTS = ("msgspec", "anthropic", "openai")
#: The name that means "the image we build".
OWN_IMAGE = "microclaw-agent"
#: Made by base.sh where no registry can be reached.
OWN_BASE = "microclaw-base"
#: How long the making of a base and the pull of an image may take.
BASE_WAIT_S = 600

_PLATFORMS = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64", "amd64": "amd64"}
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

Say = Callable[[str], None]


def folder() -> Path:
    """Where Dockerfile and base.sh lie."""
    return Path(__file__).resolve().parents[3] / "deploy" / "image"


def tag(name: str, *, engine_arch: str) -> str:
    """The image to run: `name` with its content's hash where we build it, else as it is."""
    return f"{name}:{content(engine_arch)[:16]}" if name == OWN_IMAGE else name


def content(engine_arch: str) -> str:
    """A hash of everything that goes into the image."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (_dockerfile(), _requirements(engine_arch).encode(), _PYTHON.encode()):
        digest.update(len(part).to_bytes(8, "big") + part)
    if _fits(engine_arch):
        for distribution in distributions():
            # It names every file of the package with its hash.
            digest.update((distribution.read_text("RECORD") or distribution.version).encode())
    for path, name in _own_files():
        data = path.read_bytes()
        digest.update(f"{name}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()


def ensure(client: APIClient, name: str, engine_arch: str, say: Say) -> str:
    """Build or pull the image if it is missing. Returns its tag. Blocking, minutes.

    :raises EngineMissing: it can't be had; what to do.
    """
    from docker.errors import APIError, BuildError

    wanted = tag(name, engine_arch=engine_arch)
    if exists(client, wanted):
        return wanted
    try:
        if name != OWN_IMAGE:
            say(f"pulling image {name}")
            client.pull(name)
            return wanted
        _build(client, wanted, _base(client, say), engine_arch, say)
    except (APIError, BuildError) as error:
        raise EngineMissing(f"image {wanted} can't be made: {one_line(error)}; see the log above it") from error
    return wanted


def exists(client: APIClient, wanted: str) -> bool:
    """The engine has this image."""
    from docker.errors import ImageNotFound

    try:
        client.inspect_image(wanted)
    except ImageNotFound:
        return False
    return True


def official_base() -> str:
    """The base that registries have."""
    return f"python:{_PYTHON}-slim"


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


def context(engine_arch: str) -> IO[bytes]:
    """The build context as a tar file, at its start."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    with tarfile.open(fileobj=file, mode="w") as archive:
        _add_text(archive, "Dockerfile", _dockerfile())
        _add_text(archive, "requirements.txt", _requirements(engine_arch).encode())
        _add_folder(archive, "site")
        if _fits(engine_arch):
            for path, name in _site_files():
                _add_file(archive, path, f"site/{name}")
        for path, name in _own_files():
            _add_file(archive, path, f"lib/{name}")
    file.seek(0)
    return file


def _build(client: APIClient, wanted: str, base: str, engine_arch: str, say: Say) -> None:
    from docker.errors import BuildError

    say(f"building image {wanted} on {base}")
    with context(engine_arch) as file:
        steps = client.build(
            fileobj=file, custom_context=True, tag=wanted, rm=True, forcerm=True, decode=True,
            buildargs={"BASE": base}, labels={"microclaw.image": "agent"},
            # Nothing is fetched where the packages are our own.
            network_mode="none" if _fits(engine_arch) else None,
        )  # fmt: skip
        for step in steps:
            if line := str(step.get("stream", "")).strip():
                say(line)
            if problem := step.get("error"):
                raise BuildError(str(problem), iter(()))


def _base(client: APIClient, say: Say) -> str:
    """A base image that has our Python, made or pulled if there is none."""
    from docker.errors import APIError

    own, official = f"{OWN_BASE}:{_PYTHON}", official_base()
    for name in (own, official):
        if exists(client, name):
            return name
    try:
        say(f"pulling base image {official}")
        client.pull("python", tag=f"{_PYTHON}-slim")
        return official
    except APIError as error:
        why = one_line(error)
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb") and _PYTHON == "3.11"):
        raise EngineMissing(f"base image {official} can't be pulled: {why}; connect to the registry and try again")
    say(f"no registry ({why}); making {own} from Debian packages")
    with tempfile.TemporaryDirectory(prefix="microclaw-base-") as work:
        root, archive = Path(work, "root"), Path(work, "root.tar")
        _run([str(folder() / "base.sh"), str(root)])
        _run(["tar", "--owner=0", "--group=0", "--numeric-owner", "-C", str(root), "-cf", str(archive), "."])
        client.import_image_from_file(str(archive), repository=OWN_BASE, tag=_PYTHON)
    return own


def _run(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=BASE_WAIT_S, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no word"]
        raise EngineMissing(f"{Path(argv[0]).name} failed: {lines[-1]}; run it by hand: {' '.join(argv)}")


def _fits(engine_arch: str) -> bool:
    """This machine's installed packages run in the image as they are."""
    return sys.platform == "linux" and _PLATFORMS.get(platform.machine()) == engine_arch


def _dockerfile() -> bytes:
    try:
        return (folder() / "Dockerfile").read_bytes()
    except OSError as error:
        raise EngineMissing(f"{folder()}/Dockerfile is missing; use MicroClaw's repository, or bubblewrap") from error


def _requirements(engine_arch: str) -> str:
    """The packages by name, for an image on another platform; "" where ours fit."""
    if _fits(engine_arch):
        return ""
    return "".join(f"{found.metadata['Name']}=={found.version}\n" for found in distributions())


def _site_files() -> Iterator[tuple[Path, str]]:
    for distribution in distributions():
        for file in distribution.files or ():
            path = Path(str(file.locate()))
            # Programs lie outside; `direct_url.json` names this machine's folders.
            if ".." not in file.parts and file.name != "direct_url.json" and path.is_file():
                yield path, file.as_posix()


def _own_files() -> Iterator[tuple[Path, str]]:
    for package in inside.PACKAGES:
        root = inside.package_folder(package)
        for path in sorted(root.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path, f"microclaw/{package}/{path.relative_to(root).as_posix()}"


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


def one_line(error: Exception) -> str:
    """What an engine said, for a message."""
    return " ".join(str(error).split())[:300]
