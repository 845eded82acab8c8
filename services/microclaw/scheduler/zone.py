"""The owner's time zone."""

from __future__ import annotations

from tzlocal import get_localzone_name

from microclaw.core.schedule import ScheduleError, zone_named


def owner_zone(configured: str) -> str:
    """The configured zone's name, else this machine's; UTC where the machine has none that is known by name."""
    if configured:
        return zone_named(configured).key
    try:
        return zone_named(get_localzone_name() or "UTC").key
    except (ScheduleError, LookupError, ValueError):
        return "UTC"
