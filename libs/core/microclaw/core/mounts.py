"""Which folders of the host a group may be given besides its own: the owner's allow-list, by NanoClaw's rules.

The list is a JSON file beside the configuration, out of every sandbox's reach:

    {"allowedRoots": [{"path": "~/projects", "allowReadWrite": true}], "blockedPatterns": ["secret"],
     "nonMainReadOnly": true}

What is not known to be allowed is refused: a missing or damaged list allows nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import msgspec

#: Never mounted, whatever the list says: a path is refused if any part of it contains one of these, in capitals or not
#: (where a file system takes no notice of them, `.SSH` is `.ssh`).
BLOCKED = (
    ".ssh", ".gnupg", ".gpg", ".aws", ".azure", ".gcloud", ".kube", ".docker",
    "credentials", ".env", ".netrc", ".npmrc", ".pypirc", "id_rsa", "id_ed25519", "private_key", ".secret",
    ".password-store", "share/keyrings", "library/keychains",
)  # fmt: skip
#: Where extra folders are seen inside.
EXTRA = "/workspace/extra"


class Root(msgspec.Struct, frozen=True, rename="camel"):
    """A folder below which mounts are allowed."""

    path: str
    allow_read_write: bool = False
    description: str = ""


class AllowList(msgspec.Struct, frozen=True, rename="camel"):
    """The owner's list."""

    allowed_roots: tuple[Root, ...]
    blocked_patterns: tuple[str, ...]
    #: Groups other than main never write.
    non_main_read_only: bool


class Wanted(msgspec.Struct, frozen=True, rename="camel"):
    """A mount that somebody asks for."""

    host_path: str
    #: Its name below `EXTRA`; None = the last part of the host's path.
    container_path: str | None = None
    #: Only an explicit false asks for more.
    readonly: bool = True


@dataclass(frozen=True, slots=True)
class Granted:
    """It is allowed so."""

    host_path: str
    container_path: str
    readonly: bool


@dataclass(frozen=True, slots=True)
class Refusal:
    """It is not. `reason` is one line."""

    reason: str


#: The real path of a path, every link followed; None = it does not exist.
Resolve = Callable[[str], str | None]


def read_allow_list(raw: str | bytes | None) -> AllowList | Refusal:
    """The list in this text; None = there is none."""
    if raw is None:
        return Refusal("there is no mount allow-list, so no extra folder may be mounted; write one first")
    try:
        return msgspec.json.decode(raw, type=AllowList)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        return Refusal(f"the mount allow-list can't be read ({error}), so no extra folder may be mounted; mend it")


def decide(
    wanted: Wanted, allowed: AllowList | Refusal, *, is_main: bool, home: str, resolve: Resolve
) -> Granted | Refusal:
    """Whether a group gets this folder, and whether it may write there. `home` is what `~` means."""
    if isinstance(allowed, Refusal):
        return allowed
    # An empty name means the same as none, a blank one is a name that is none.
    name = wanted.container_path or PurePosixPath(wanted.host_path).name
    if not _is_name(name):
        return Refusal(f"{name!r} can't be a mount's name: use a relative path without '..', ':' or ','")
    real = resolve(expand(wanted.host_path, home))
    if real is None:
        return Refusal(f"{wanted.host_path} does not exist; create it first")
    pattern = blocked_by(real, allowed.blocked_patterns)
    if pattern is not None:
        return Refusal(f"{wanted.host_path} is never mounted: it matches the blocked pattern {pattern!r}")
    root = _root_of(real, allowed.allowed_roots, home, resolve)
    if root is None:
        return Refusal(f"{wanted.host_path} is under no allowed root; add one to the mount allow-list")
    may_write = root.allow_read_write and (is_main or not allowed.non_main_read_only)
    return Granted(real, str(PurePosixPath(EXTRA, name)), readonly=wanted.readonly or not may_write)


def expand(path: str, home: str) -> str:
    """The path with `~` and `~/` at its beginning as the home folder."""
    if path == "~" or path.startswith("~/"):
        return home + path[1:]
    return path


def blocked_by(real: str, patterns: Sequence[str]) -> str | None:
    """The first of `BLOCKED` and of the owner's patterns that this path contains. The owner's count as they are
    written; an empty one is in every path."""
    folded = real.casefold()
    return next(
        (pattern for pattern in BLOCKED if pattern in folded),
        next((pattern for pattern in patterns if pattern in real), None),
    )


def _is_name(name: str) -> bool:
    # A colon or a comma could smuggle in mount options where an engine is given `source:target:options`, or
    # `source=…,target=…,options`.
    is_relative = not name.startswith("/") and ".." not in name
    is_something = bool(name.strip()) and PurePosixPath(name) != PurePosixPath()
    return is_something and is_relative and not {":", ","} & set(name) and name.isprintable()


def _root_of(real: str, roots: Sequence[Root], home: str, resolve: Resolve) -> Root | None:
    path = PurePosixPath(real)
    for root in roots:
        real_root = resolve(expand(root.path, home))
        if real_root is not None and path.is_relative_to(real_root):
            return root
    return None
