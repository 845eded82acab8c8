"""What `prove` tells a broker to do: one small file, taken up once."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Literal

import msgspec

_NAME = "order"


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One order."""

    what: Literal["die", "power", "full"]
    #: `die`, `power`: with the how manieth commit from now, and where in it (`plan.POINTS`).
    commit: int = 1
    point: str = ""
    #: `full`: for so long, ms.
    hold_ms: int = 0
    #: `power`: decides which sectors that were not synced are on the disk all the same.
    seed: int = 0


def give(folder: Path, order: Order) -> None:
    """Leave an order for the broker."""
    fresh = folder / f"{_NAME}.new"
    fresh.write_bytes(msgspec.json.encode(order))
    fresh.replace(folder / _NAME)


def take(folder: Path) -> Order | None:
    """The order that is there, which is gone with that."""
    path = folder / _NAME
    try:
        order = msgspec.json.decode(path.read_bytes(), type=Order)
    except FileNotFoundError:
        return None
    path.unlink()
    return order


def withdraw(folder: Path) -> None:
    """Nobody need take it any more."""
    with contextlib.suppress(FileNotFoundError):
        (folder / _NAME).unlink()
