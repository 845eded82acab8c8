"""What a group's sandbox has beyond what every group's has."""

from __future__ import annotations

import msgspec

from microclaw.core.mounts import Wanted

#: Extra folders of one group.
MOUNTS_MAX = 16
#: Longest time-out of a group's own, ms.
TIMEOUT_MS_MAX = 7 * 24 * 3600 * 1000


class Container(msgspec.Struct, frozen=True, kw_only=True):
    """A group's own settings. Only the owner gives them; each mount is still judged by the allow-list."""

    #: A turn without a result is ended after this, ms; 0 = as configured for all.
    timeout_ms: int = 0
    #: Folders of the host that the group should see.
    mounts: tuple[Wanted, ...] = ()


def problem_of(container: Container) -> str:
    """What is wrong with it, in one line; "" = nothing."""
    if not 0 <= container.timeout_ms <= TIMEOUT_MS_MAX:
        return f"the time-out must lie between 0 and {TIMEOUT_MS_MAX} ms"
    if len(container.mounts) > MOUNTS_MAX:
        return f"{len(container.mounts)} extra folders are too many: a group may have {MOUNTS_MAX}"
    return ""
