"""Why bubblewrap can't make its namespaces here, in words that help."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

APPARMOR = "kernel/apparmor_restrict_unprivileged_userns"
DEBIAN = "kernel/unprivileged_userns_clone"
COUNT = "user/max_user_namespaces"

#: What bubblewrap says when it is not let.
_SIGNS = ("uid map", "namespace", "RTM_NEWADDR", "Operation not permitted", "Permission denied")


def switches(root: Path = Path("/proc/sys")) -> dict[str, str]:
    """The kernel's settings that forbid namespaces, those that exist here."""
    found = {}
    for name in (APPARMOR, DEBIAN, COUNT):
        path = root / name
        if path.exists():
            found[name] = path.read_text().strip()
    return found


def explain(said: str, settings: Mapping[str, str], program: Path) -> str:
    """One line: what, why, what to do. `said` is bubblewrap's own message."""
    if not any(sign in said for sign in _SIGNS):
        return said
    if settings.get(COUNT) == "0":
        return "this kernel allows no user namespaces; allow them: sudo sysctl user.max_user_namespaces=65536"
    if settings.get(DEBIAN) == "0":
        return "users may not make namespaces here; allow it: sudo sysctl kernel.unprivileged_userns_clone=1"
    if settings.get(APPARMOR) == "1":
        return (
            f"AppArmor forbids {program} to make namespaces; give it a profile with 'userns,' in /etc/apparmor.d, "
            "or allow all: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0; or install Docker or Podman"
        )
    return (
        f"{said}; in a container allow user namespaces (a seccomp profile or --security-opt may forbid them), "
        "or install Docker or Podman on the host"
    )
